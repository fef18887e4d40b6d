"""The commands of ``lesa``, one module each, with a function ``main(arguments) -> exit status``."""
