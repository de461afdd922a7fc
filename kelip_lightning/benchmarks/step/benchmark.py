"""The step benchmarks from their setting to their report."""

from data_modules.loading import open_sources
from kelip_lightning.benchmarks.processes import Progress, in_fresh_process
from kelip_lightning.benchmarks.step.agreement import compare_steps
from kelip_lightning.benchmarks.step.captions import CaptionLengths, cc3m_like_lengths, emoji_lengths
from kelip_lightning.benchmarks.step.growth import growth_cases, run_growth
from kelip_lightning.benchmarks.step.growth_report import GrowthReport
from kelip_lightning.benchmarks.step.peers import OURS, peers_of
from kelip_lightning.benchmarks.step.report import StepReport
from kelip_lightning.benchmarks.step.rounds import RoundPlan, run_rounds
from kelip_lightning.benchmarks.step.setting import EMOJI_CAPTIONS, EMOJI_SOURCE, MODELS, ModelName, StepSetting

NUM_CAPTIONS, NUM_CAPTIONS_OF_A_TEST = 4000, 400


def run_step_benchmark(setting: StepSetting, *, rounds: int, warmup: int, steps: int, progress: Progress) -> StepReport:
    """Compare the steps, measure all rounds, and summarise.

    Args:
        setting: Model, batch and arithmetic.
        rounds: Fresh processes.
        warmup: Steps of each contestant in a round before the timed ones, >= 1.
        steps: Timed steps of each contestant in a round.
        progress: Receives a line after each part.

    Raises:
        BenchmarkError: A process died.
    """
    peers, notes = peers_of(setting)
    for note in notes:
        progress(note)
    captions = caption_lengths(is_test=setting.model is ModelName.tiny)
    (lengths,) = (one for one in captions if one.name == setting.captions.name)
    progress("comparing loss and gradients of one step")
    agreements = in_fresh_process(setting.threads, compare_steps, setting, lengths, peers)
    plan = RoundPlan(setting=setting, lengths=lengths, contestants=[OURS, *peers], warmup=warmup, steps=steps)
    done = run_rounds(plan, rounds, progress)
    return StepReport(plan=plan, captions=captions, agreements=agreements, rounds=done, notes=notes)


def run_growth_benchmark(
    setting: StepSetting, *, rounds: int, warmup: int, steps: int, progress: Progress
) -> GrowthReport:
    """Measure how the cost of our step grows from this setting; arguments and errors as of `run_step_benchmark`."""
    captions = caption_lengths(is_test=setting.model is ModelName.tiny)
    (lengths,) = (one for one in captions if one.name == setting.captions.name)
    cases = growth_cases(setting)
    done = run_growth(cases, lengths, rounds=rounds, warmup=warmup, steps=steps, progress=progress)
    return GrowthReport(setting=setting, warmup=warmup, steps=steps, cases=cases, rounds=done)


def caption_lengths(*, is_test: bool) -> list[CaptionLengths]:
    """All distributions; a test reads less of the embedded corpus."""
    (source,) = open_sources({"emoji": EMOJI_SOURCE})
    number = NUM_CAPTIONS_OF_A_TEST if is_test else NUM_CAPTIONS
    vocab_size = MODELS[ModelName.emoji].vocab_size
    emoji = emoji_lengths(
        source, EMOJI_CAPTIONS, vocab_size, num_captions=number, max_training_pairs=number if is_test else len(source)
    )
    return [emoji, cc3m_like_lengths()]
