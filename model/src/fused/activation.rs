//! Activations that know what they were computed from.
//!
//! A backward pass that needs an activation again would keep it. Where the tensors that it was
//! computed from are kept anyway, the backward pass computes it a second time instead, and the
//! activation's memory is free in between.

use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, TensorMetadata, flex::FlexTensor};
use burn::tensor::{DType, Tensor};

use super::flex::scale_rows;
use super::graph::plain;
use super::{rms_norm, swiglu};

/// A matrix of activations, a row for each token, with what it was computed from.
#[derive(Clone, Debug)]
pub struct Activation {
    /// The activations, `[n, d]`.
    pub value: Tensor<2>,
    /// What `value` was computed from.
    pub origin: Origin,
}

/// The operation and the inputs that an [`Activation`] was computed with.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Nothing is known that would let the activation be computed again.
    Unknown,
    /// The activation is [`swiglu::swiglu`] of these.
    SwiGlu {
        /// The input of silu, `[n, d]`.
        gate: Tensor<2>,
        /// The other factor, `[n, d]`.
        up: Tensor<2>,
    },
    /// The activation is [`rms_norm::rms_norm`] of these.
    RmsNorm {
        /// The rows before the norm, `[n, d]`.
        x: Tensor<2>,
        /// The frozen gain, `[d]`.
        gain: Tensor<1>,
        /// The number added to the mean square.
        eps: f64,
    },
}

impl From<Tensor<2>> for Activation {
    /// An activation of unknown origin.
    fn from(value: Tensor<2>) -> Self {
        Self {
            value,
            origin: Origin::Unknown,
        }
    }
}

impl Activation {
    /// The activations alone, in f32. What they were computed from is let go.
    pub fn into_value(self) -> Tensor<2> {
        self.value.cast(DType::F32)
    }

    /// Where a backward pass finds the activation again, outside the graph.
    pub(super) fn plain_source(&self) -> Source<Dispatch> {
        let origin = match &self.origin {
            Origin::Unknown => Origin::Unknown,
            Origin::SwiGlu { gate, up } => Origin::SwiGlu {
                gate: plain(gate),
                up: plain(up),
            },
            Origin::RmsNorm { x, gain, eps } => Origin::RmsNorm {
                x: plain(x),
                gain: plain(gain),
                eps: *eps,
            },
        };
        let value = plain(&self.value);
        Self { value, origin }.into_dispatch().1
    }

    /// The activation as Burn dispatches it, and where a backward pass finds it again.
    pub(super) fn into_dispatch(self) -> (FloatTensor<Dispatch>, Source<Dispatch>) {
        let value = self.value.into_dispatch();
        let source = match self.origin {
            Origin::Unknown => Source::Kept { x: value.clone() },
            Origin::SwiGlu { gate, up } => Source::SwiGlu {
                gate: gate.into_dispatch(),
                up: up.into_dispatch(),
            },
            Origin::RmsNorm { x, gain, eps } => Source::RmsNorm {
                x: x.into_dispatch(),
                gain: gain.into_dispatch(),
                eps,
            },
        };
        (value, source)
    }
}

/// Where a backward pass finds an activation again: [`Origin`] on the primitives of a backend.
#[derive(ExtensionType, Clone, Debug)]
pub enum Source<B: Backend> {
    /// The activation itself is kept.
    Kept {
        /// The activation, `[n, d]`.
        x: FloatTensor<B>,
    },
    /// See [`Origin::SwiGlu`].
    SwiGlu {
        /// The input of silu, `[n, d]`.
        gate: FloatTensor<B>,
        /// The other factor, `[n, d]`.
        up: FloatTensor<B>,
    },
    /// See [`Origin::RmsNorm`].
    RmsNorm {
        /// The rows before the norm, `[n, d]`.
        x: FloatTensor<B>,
        /// The frozen gain, `[d]`.
        gain: FloatTensor<B>,
        /// The number added to the mean square.
        eps: f64,
    },
}

impl<B: Backend, C: CheckpointStrategy> Source<Autodiff<B, C>> {
    /// The source outside the graph, for the backward pass of an operation on `value`. The
    /// gradient goes to the node of `value`, never to those of the source.
    pub(super) fn inner(self, value: &FloatTensor<B>) -> Source<B> {
        let inner = |t: FloatTensor<Autodiff<B, C>>| t.into_parts().0;
        let like = |t: &FloatTensor<B>| debug_assert_eq!(t.shape(), value.shape());
        match self {
            Self::Kept { x } => Source::Kept { x: inner(x) },
            Self::SwiGlu { gate, up } => {
                let [gate, up] = [gate, up].map(inner);
                like(&gate);
                like(&up);
                Source::SwiGlu { gate, up }
            }
            Self::RmsNorm { x, gain, eps } => {
                let [x, gain] = [x, gain].map(inner);
                like(&x);
                Source::RmsNorm { x, gain, eps }
            }
        }
    }
}

impl Source<Dispatch> {
    /// The activation in f32, computed again.
    pub(super) fn value(self) -> Tensor<2> {
        let whole = |x| Tensor::<2>::from_dispatch(x).cast(DType::F32);
        match self {
            Self::Kept { x } => whole(x),
            Self::SwiGlu { gate, up } => swiglu::composed(whole(gate), whole(up)),
            Self::RmsNorm { x, gain, eps } => {
                rms_norm::composed(Tensor::from_dispatch(x), Tensor::from_dispatch(gain), eps)
            }
        }
    }
}

impl Source<Flex> {
    /// A matrix M and a row of factors with `x^T g = diag(factors) M^T g'`, for g of `width` values
    /// a row. A normalised x is `diag(1 / rms) M diag(gain)`: 1 / rms goes to g, the gain to the
    /// product, and x is not computed again.
    pub(super) fn rows(self, g: &mut [f32], width: usize) -> (FlexTensor, Option<FlexTensor>) {
        match self {
            Self::Kept { x } => (x.to_contiguous(), None),
            Self::SwiGlu { gate, up } => {
                let x = <Flex as swiglu::Kernels>::forward(&gate, &up);
                (x, None)
            }
            Self::RmsNorm { x, gain, eps } => {
                let x = x.to_contiguous();
                scale_rows(g, width, &rms_norm::inverses(&x, eps));
                (x, Some(gain.to_contiguous()))
            }
        }
    }
}
