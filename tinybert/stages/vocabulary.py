"""A model that knows nothing yet: word pieces learnt from a corpus, and a BERT of random weights that reads them."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, BertTokenizerFast, PreTrainedTokenizerBase, set_seed

from tinybert.cli import main
from tinybert.config import CorpusConfig
from tinybert.corpus import texts_of
from tinybert.errors import DataError
from tinybert.models import load_tokenizer, save
from tinybert.pretrain_config import EncoderConfig, VocabularyConfig
from tinybert.progress import OnMetrics
from tinybert.tables import split_files

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def run(
    *,
    source: Path,
    config: VocabularyConfig,
    corpus: CorpusConfig,
    encoder: EncoderConfig,
    out: Path,
    on_metrics: OnMetrics,
    tokenizer: Path | None = None,
) -> dict[str, float]:
    """Learn a vocabulary, and make an encoder for it.

    Args:
        source: Text file, table or directory of them.
        config: Size of the vocabulary, and how text is normalised.
        corpus: Column of the text, and what of it counts.
        encoder: Shape of the model.
        out: Directory to write: tokenizer, config and random weights, without a head.
        on_metrics: Told the numbers.
        tokenizer: Model whose tokenizer is taken; nothing is learnt then.

    Returns:
        pieces, parameters.

    Raises:
        DataError: Unreadable file, missing column, or no text.
    """
    pieces = load_tokenizer(tokenizer) if tokenizer else _learnt(source, config, corpus)
    pieces.model_max_length = encoder.positions
    set_seed(encoder.seed)
    model = BertModel(
        BertConfig(
            vocab_size=len(pieces),
            hidden_size=encoder.hidden,
            num_hidden_layers=encoder.layers,
            num_attention_heads=encoder.heads,
            intermediate_size=encoder.ffn,
            max_position_embeddings=encoder.positions,
            pad_token_id=pieces.pad_token_id,
        )
    )
    save(model, pieces, out, max_length=encoder.positions)
    metrics = {"pieces": float(len(pieces)), "parameters": float(model.num_parameters())}
    on_metrics(metrics, 0)
    return metrics


def _learnt(source: Path, config: VocabularyConfig, corpus: CorpusConfig) -> PreTrainedTokenizerBase:
    """WordPiece as BERT reads it, learnt by the tokenizers library."""
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    learner.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    learner.train_from_iterator(texts_of(split_files(source, "train"), corpus), trainer)
    found = learner.get_vocab().keys() - set(SPECIAL)
    if not found:
        raise DataError(f"{source.name}: no text to learn a vocabulary from; name a corpus that has some")
    # The trainer numbers pieces in an order that differs from run to run; so does which of two equally frequent goes.
    pieces = [*SPECIAL, *sorted(found)]
    numbered = {piece: number for number, piece in enumerate(pieces)}
    return BertTokenizerFast(vocab=numbered, do_lower_case=config.lowercase)


if __name__ == "__main__":
    main(run)
