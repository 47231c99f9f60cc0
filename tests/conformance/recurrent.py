"""Sequences: recurrent layers, states that go on, masks, embeddings, attention."""

from typing import Any

import keras
import numpy as np

from tests.conformance.base import Case, make
from tests.conformance.catalogue import entry

layers = keras.layers


class _Series(Case):
    """Five points of three numbers."""

    kind = "series"

    def model(self) -> Any:
        return keras.Sequential([keras.Input((5, 3)), *self.tested(), layers.Dense(1)])

    def tested(self) -> Any:
        raise NotImplementedError


@entry("LSTM", part="fast")
class Lstm(_Series):
    def tested(self) -> Any:
        return [layers.LSTM(6)]


@entry("GRU over GRU, with dropout of the recurrent state", part="whole")
class Gru(_Series):
    def tested(self) -> Any:
        return [layers.GRU(6, return_sequences=True), layers.GRU(4)]


@entry("LSTM with recurrent dropout", random="layer", part="whole")
class RecurrentDropout(_Series):
    def tested(self) -> Any:
        return [layers.LSTM(6, recurrent_dropout=0.2, dropout=0.2, seed=3)]


@entry("Bidirectional GRU and TimeDistributed", part="whole")
class Bidirectional(_Series):
    def tested(self) -> Any:
        hidden = layers.TimeDistributed(layers.Dense(4, "tanh"))
        return [layers.Bidirectional(layers.GRU(4, return_sequences=True)), hidden, layers.GlobalMaxPooling1D()]


@entry("A cell of one's own in RNN", part="whole")
class OwnCell(_Series):
    def tested(self) -> Any:
        return [layers.RNN([layers.SimpleRNNCell(5), layers.LSTMCell(4)])]


@entry("Conv1D and ConvLSTM1D", part="whole")
class ConvolutionsInTime(_Series):
    def tested(self) -> Any:
        return [layers.Conv1D(4, 2), layers.Reshape((2, 2, 4)), layers.ConvLSTM1D(3, 2), layers.Flatten()]


STATEFUL = {
    "refused": dict.fromkeys(("four", "two"), "is stateful"),
    "why": "the state belongs to the rows of a whole batch, of which each replica has but a part",
}


@entry("A stateful LSTM: its state goes on from batch to batch", **STATEFUL)
class StatefulLstm(_Series):
    predicts = False

    def model(self) -> Any:
        return keras.Sequential([keras.Input(batch_shape=(8, 5, 3)), layers.LSTM(4, stateful=True), layers.Dense(1)])

    def evaluation_data(self) -> Any:
        return None


@entry("A stateful SimpleRNN with an evaluation in between", part="whole", **STATEFUL)
class StatefulWithEvaluation(_Series):
    predicts = False

    def model(self) -> Any:
        return keras.Sequential(
            [keras.Input(batch_shape=(8, 5, 3)), layers.SimpleRNN(4, stateful=True), layers.Dense(1)]
        )

    def evaluation_data(self) -> Any:
        return make("series", 16, 2)


class _Tokens(Case):
    """Seven tokens at most, zeros at the end."""

    kind = "tokens"

    def model(self) -> Any:
        return keras.Sequential([keras.Input((7,), dtype="int32"), *self.tested(), layers.Dense(1)])

    def tested(self) -> Any:
        raise NotImplementedError


@entry("Embedding and a mean over time", also=("two",))
class Embedding(_Tokens):
    def tested(self) -> Any:
        return [layers.Embedding(20, 5), layers.GlobalAveragePooling1D()]


@entry("A mask from Embedding(mask_zero) through two recurrent layers")
class MaskedTokens(_Tokens):
    def tested(self) -> Any:
        return [layers.Embedding(20, 5, mask_zero=True), layers.GRU(5, return_sequences=True), layers.LSTM(4)]


@entry("Masking of whole points, and a mask that reaches the loss")
class MaskedLoss(Case):
    def _data(self, count: int, seed: int) -> Any:
        x = make("series", count, seed)[0].copy()
        lengths = np.random.default_rng(seed).integers(2, 6, count)
        x[np.arange(5)[None] >= lengths[:, None]] = 0.0
        return x, x.sum(-1, keepdims=True)

    def train_data(self) -> Any:
        return self._data(48, 1)

    def evaluation_data(self) -> Any:
        return self._data(16, 2)

    def model(self) -> Any:
        return keras.Sequential(
            [keras.Input((5, 3)), layers.Masking(), layers.LSTM(5, return_sequences=True), layers.Dense(1)]
        )

    def metrics(self) -> Any:
        return []


@entry("Self-attention of several heads, with a causal mask and residuals")
class Transformer(_Tokens):
    def model(self) -> Any:
        tokens = keras.Input((7,), dtype="int32")
        x = layers.Embedding(20, 8)(tokens)
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True))
        x = x + layers.Dense(8)(layers.Dense(16, "gelu")(x))
        return keras.Model(tokens, layers.Dense(1)(layers.GlobalAveragePooling1D()(x)))


@entry("Attention and AdditiveAttention, grouped queries", part="whole")
class Attentions(_Tokens):
    def model(self) -> Any:
        tokens = keras.Input((7,), dtype="int32")
        x = layers.Embedding(20, 8)(tokens)
        both = [layers.Attention(use_scale=True)([x, x]), layers.AdditiveAttention()([x, x])]
        both.append(layers.GroupQueryAttention(4, 4, 2)(x, x))
        return keras.Model(tokens, layers.Dense(1)(layers.GlobalMaxPooling1D()(layers.Concatenate()(both))))
