"""``lesa demo``: draw predictions on images, video or a camera, several models side by side."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..data.pictures import read_picture
from ..engine import separate_overrides
from ..engine.folder import make_folder
from ..errors import LesaError
from ..tools.analysis.image_reader import find_images
from ..tools.demo import FORMS, DemoModel, DetectionSummary, HtmlReport, VideoReader, VideoWriter, load_models
from ..tools.demo.files import keep_originals, output_names, short_names
from ..tools.demo.panels import predict
from ..tools.reports.pictures import write_picture
from . import description

EXAMPLES = """
examples:
  lesa demo --config-file RUN/config.yaml --input photos/ --output drawn --report
  lesa demo --config-file RUN1/config.yaml --compare RUN2/config.yaml \\
      --video-input a.mp4 --output drawn
  lesa demo --config-file configs/yacs/mask_rcnn_lesa_r50.yaml --weights FILE.pth \\
      --input '*.jpg' --output drawn
"""
WINDOW = "LESA"
QUIT_KEYS = (27, ord("q"))  # Esc, q


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for, and return the exit status."""
    args = parse_args(arguments)
    if args.output is None:
        check_display()
    else:
        make_folder(args.output, "--output")
    if args.input:
        files = find_images(args.input)
        if args.output:
            keep_originals(files, args.output, output_names(files).values())
        show_images(args, load(args), files)
    else:
        reader = VideoReader(args.camera if args.webcam else args.video_input)
        if args.output and args.video_input:
            source = Path(args.video_input)
            keep_originals([source], args.output, [f"{source.stem}{suffix}" for suffix, _ in FORMS])
        show_video(args, load(args), reader)
    return 0


def load(args: argparse.Namespace) -> list[DemoModel]:
    """Load the models, and print for each where its weights come from."""
    files = [args.config_file, *args.compare]
    models = load_models(files, args.opts, args.weights, args.titles, args.device, args.amp)
    for model in models:
        print(f"{model.title}: weights {model.predictor.describe_weights()}")
    return models


def show_images(args: argparse.Namespace, models: list[DemoModel], files: list[Path]) -> None:
    """Draw one image after the other, and write or show them.

    Raises:
        LesaError: some images cannot be read; raised after all others, and names them.
    """
    names, shown = output_names(files), short_names(files)
    summary, broken = DetectionSummary(models, args.confidence_threshold), []
    report = HtmlReport("Predictions", models, args.confidence_threshold) if args.report else None
    for file in tqdm(files, desc="images", unit="image"):
        try:
            image = read_picture(file, "BGR")
        except LesaError as error:
            broken.append(str(error))
            continue
        panels = next(predict(models, [image]))
        summary.add(str(file), panels)
        if report:
            report.add(shown[file], panels)
        drawn = panels.draw(models, args.confidence_threshold, args.original)
        if args.output:
            write_picture(drawn, args.output / names[file])
        elif not show(drawn, file.name, wait=0):
            break
    print(f"\n{summary.table()}")
    if args.output:
        summary.save(args.output / "predictions.json")
        print(f"\nPictures and predictions.json: {args.output}")
    if report:
        print(f"Report: {report.save(args.output / 'report.html')}")
    if broken:
        raise LesaError(f"{len(broken)} of {len(files)} files were left out:\n  " + "\n  ".join(broken))


def show_video(args: argparse.Namespace, models: list[DemoModel], reader: VideoReader) -> None:
    """Draw a video file, or a camera until q or Esc is pressed in the window, or Ctrl-C in the terminal.

    Raises:
        LesaError: no frame can be read.
    """
    stem = f"camera_{args.camera}" if args.webcam else Path(args.video_input).stem
    writer = VideoWriter(args.output / stem, reader.rate) if args.output else None
    summary = DetectionSummary(models, args.confidence_threshold)
    try:
        for number, panels in enumerate(predict(models, progress(reader, args.frames)), start=1):
            summary.add(f"frame {number}", panels)
            drawn = panels.draw(models, args.confidence_threshold, args.original)
            if writer:
                writer.write(drawn)
            elif not show(drawn, stem, wait=1):
                break
    except KeyboardInterrupt:
        print("\nStopped.")
    finally:
        if writer:
            writer.close()
    if not summary.pictures:
        raise LesaError(f"{stem}: not a single frame could be read")
    print(f"\n{summary.table()}")
    if writer:
        summary.save(args.output / f"{stem}.json")
        print(f"\nVideo and detections: {writer.file}, {stem}.json")


def progress(reader: VideoReader, most: int | None) -> Iterator[np.ndarray]:
    """Yield the frames, at most ``most`` of them, and show a progress bar."""
    total = min(filter(None, (reader.length, most)), default=None)
    frames: Iterable[np.ndarray] = tqdm(reader, total=total, desc="video", unit="frame")
    for number, frame in enumerate(frames):
        if number == most:
            return
        yield frame


def check_display() -> None:
    """Check that a window can be opened.

    Raises:
        LesaError: it cannot.
    """
    advice = "give --output DIR to write files instead"
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise LesaError(f"no window can be opened: there is no display (DISPLAY is not set); {advice}")
    try:
        cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error as error:
        raise LesaError(f"no window can be opened by this OpenCV ({error}); {advice}") from error


def show(picture: np.ndarray, title: str, wait: int) -> bool:
    """Show a picture for ``wait`` milliseconds (0: until a key is pressed); return False if the key means to quit."""
    cv2.setWindowTitle(WINDOW, title)
    cv2.imshow(WINDOW, picture)
    return cv2.waitKey(wait) not in QUIT_KEYS


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="lesa demo",
        description=description(__doc__),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--config-file",
        required=True,
        metavar="FILE",
        help="LazyConfig or yacs; a run's is in its output folder",
    )
    add("--compare", nargs="+", default=[], metavar="FILE", help="more configs, drawn beside the first")
    add(
        "--weights",
        nargs="+",
        default=[],
        metavar="FILE",
        help="a checkpoint for each config; default: its run's last",
    )
    add("--original", action="store_true", help="also draw the picture as it is, before the others")
    add("--titles", nargs="+", default=[], metavar="TITLE", help="a title for each config; default: its name")
    add("--input", nargs="+", default=[], metavar="PATH", help="images, folders of them, or quoted patterns")
    add("--video-input", metavar="FILE", help="a video file")
    add("--webcam", action="store_true", help="the camera")
    add("--camera", type=int, default=0, metavar="N", help="number of the camera; default: 0")
    add("--frames", type=int, metavar="N", help="stop a video or camera after N frames")
    add("--output", type=Path, metavar="DIR", help="write files there; default: show a window")
    add(
        "--report",
        action="store_true",
        help="also write DIR/report.html: all pictures, filters by class and score",
    )
    add(
        "--confidence-threshold", type=float, default=0.5, metavar="S", help="least score drawn; default: 0.5"
    )
    add("--device", help="cuda, cuda:1 or cpu; default: the config's, or the CPU where there is no GPU")
    add("--amp", choices=("bfloat16", "float16"), help="mixed precision")
    add("opts", nargs="*", default=[], metavar="key=value", help="overrides of every config")
    args = parser.parse_args(arguments)
    separate_overrides(args, args.compare, args.weights, args.titles, args.input)
    if sum(map(bool, (args.input, args.video_input, args.webcam))) != 1:
        parser.error("give one of --input, --video-input and --webcam")
    if args.report and not (args.output and args.input):
        parser.error("--report is a page about the images of --input, and goes to the folder of --output")
    if not 0 <= args.confidence_threshold <= 1:
        parser.error(f"--confidence-threshold must lie between 0 and 1, got {args.confidence_threshold}")
    if args.frames is not None and args.frames < 1:
        parser.error(f"--frames must be at least 1, got {args.frames}")
    return args
