"""The demo: drop or record a sound, see its spectrogram with the events, and a table of them."""

from __future__ import annotations

import os


def build_demo(model_id: str):
    """A `gradio.Blocks` around the detector ``model_id`` (hub id or folder). Its API has one endpoint, ``/detect``:
    audio file and threshold (0: the saved ones) to picture and table. Needs gradio and matplotlib."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the demo needs gradio: pip install 'hf_sed[demo]'.") from error
    from ..audio import AudioError, load_audio
    from ..inference.pipeline import pipeline
    from ..inference.plots import plot_events

    detector = pipeline("sound-event-detection", model=model_id)
    config, rate = detector.model.config, detector.feature_extractor.sampling_rate

    def detect(audio: str | None, threshold: float):
        if audio is None:
            raise gr.Error("Drop or record a sound first.")
        try:
            waveform = load_audio(audio, rate, name="the recording")
        except AudioError as error:
            raise gr.Error(str(error)) from error
        events = detector({"array": waveform, "sampling_rate": rate}, thresholds=threshold or None)
        table = [[e["label"], round(e["onset"], 2), round(e["offset"], 2), round(e["score"], 3)] for e in events]
        return plot_events(waveform, rate, events, labels=config.labels), table

    with gr.Blocks(title="Sound event detection") as demo:
        gr.Markdown(f"# Sound event detection\nDetects {', '.join(config.labels)}.")
        with gr.Row():
            audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Sound")
            with gr.Column():
                threshold = gr.Slider(0.0, 0.95, value=0.0, step=0.05, label="Threshold (0: the model's own)")
                button = gr.Button("Detect", variant="primary")
        picture = gr.Plot(label="Spectrogram and events")
        table = gr.Dataframe(headers=["event", "onset (s)", "offset (s)", "score"], label="Events")
        button.click(detect, [audio, threshold], [picture, table], api_name="detect")
    return demo
