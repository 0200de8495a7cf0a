//! A frozen linear map with the low-rank update of its adapter, as one operation.
//!
//! In one, the gradients to x of the two parts are summed where they are computed, and the
//! backward pass can do without x.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops},
};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::Tensor;

use super::activation::{Activation, Source};
use super::linear;
use super::low_rank::lean::{Base, lean};
use super::low_rank::{self, Mixture, MixturePrimitive, Saved, add_low_rank};
use super::{Implementation, propagate, tracked};

/// `x W^T`, W frozen, plus the low-rank update of x: [`linear()`](linear::linear) and
/// [`add_low_rank()`] in one.
///
/// # Shapes
/// - x: `[n, d]`; weight: `[o, d]`; output: `[n, o]`
pub fn adapted_linear(x: Activation, weight: Tensor<2>, mixture: Mixture) -> Tensor<2> {
    match Implementation::of(&[&x.value, &weight]) {
        Implementation::Flex => {
            let (x, source) = x.into_dispatch();
            let (weight, mixture) = (weight.into_dispatch(), mixture.into_dispatch());
            Tensor::from_dispatch(Dispatch::adapted_linear(x, weight, mixture, source))
        }
        Implementation::Lean => lean(Base::Weight(weight), x, mixture),
        Implementation::Composed => composed(x.value, weight, mixture),
    }
}

/// [`adapted_linear()`] from its two parts. The frozen product runs in the weight's type.
pub fn composed(x: Tensor<2>, weight: Tensor<2>, mixture: Mixture) -> Tensor<2> {
    add_low_rank(linear::in_its_type(x.clone(), weight), x, mixture)
}

/// Whether [`adapted_linear()`] is one operation for this input and this frozen weight, rather than
/// its two parts.
pub fn serves(x: &Tensor<2>, weight: &Tensor<2>) -> bool {
    Implementation::of(&[x, weight]) != Implementation::Composed
}

/// [`adapted_linear()`] as Burn dispatches it. A backend needs the kernels of
/// [`linear()`](linear::linear) and of
/// [`add_low_rank()`].
#[backend_extension(Flex, Autodiff)]
pub trait Extension: Backend {
    /// See [`adapted_linear()`].
    fn adapted_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] mixture: MixturePrimitive<Self>,
        #[extension_type] source: Source<Self>,
    ) -> FloatTensor<Self>;
}

impl Extension for Flex {
    fn adapted_linear(
        x: FlexTensor,
        weight: FlexTensor,
        mixture: MixturePrimitive<Self>,
        source: Source<Self>,
    ) -> FlexTensor {
        // Without a backward pass, what x was computed from is not needed.
        drop(source);
        let base = <Self as linear::Kernels>::forward(&x, &weight);
        let [y, _] = <Self as low_rank::Kernels>::forward(base, &x, &mixture);
        y
    }
}

impl<B, C> Extension for Autodiff<B, C>
where
    B: linear::Kernels + low_rank::Kernels,
    C: CheckpointStrategy,
{
    fn adapted_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mixture: MixturePrimitive<Self>,
        source: Source<Self>,
    ) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, _) = weight.into_parts();
        let (mixture, [a_node, b_node, weights_node]) = mixture.into_parts();
        let base = <B as linear::Kernels>::forward(&x, &weight);
        let [y, hidden] = <B as low_rank::Kernels>::forward(base, &x, &mixture);
        let saved = Saved {
            x: source.inner(&x),
            mixture,
            hidden,
            frozen: Some(weight),
        };
        // Nobody but the source may hold x until the backward pass.
        drop(x);
        let inputs = [x_node, a_node, b_node, weights_node];
        tracked::<B, C, _, 4>(AdaptedLinearBackward, inputs, saved, y)
    }
}

#[derive(Debug)]
struct AdaptedLinearBackward;

impl<B: low_rank::Kernels> Backward<B, 4> for AdaptedLinearBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        propagate::<B, _, 4>(ops, grads, B::backward);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, TensorData};

    use super::*;
    use crate::dropout::testing::mask;
    use crate::fused::activation::Origin;
    use crate::fused::rms_norm::rms_norm;
    use crate::fused::swiglu::swiglu;
    use crate::fused::testing::{assert_close, leaf, random};

    /// How the backward pass of a run finds x.
    #[derive(Clone, Copy, PartialEq)]
    enum How {
        /// The two parts, composed.
        Parts,
        /// One operation that keeps x.
        Kept,
        /// One operation that computes x again.
        Again,
        /// The lean form, which keeps x.
        LeanKept,
        /// The lean form, which computes x again.
        LeanAgain,
    }

    #[test]
    fn adapted_linear_equals_its_parts_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(3);
        // The second shape takes several blocks of tokens.
        for (n, d, r, o, experts, k) in [
            (1, 5, 3, 7, 4, 1),
            (131, 37, 4, 19, 4, 2),
            (150, 300, 21, 19, 1, 1),
        ] {
            let (gate, up) = (random([n, d], &device), random([n, d], &device));
            let (gain, frozen) = (random([d], &device), random([o, d], &device));
            let (a, b) = (
                random([experts, d, r], &device),
                random([experts, r, o], &device),
            );
            let weights = random([n, k], &device);
            let chosen: Vec<i64> = (0..n * k)
                .map(|i| ((i / k * 7 + i % k) % experts.min(3)) as i64)
                .collect();
            let index = Tensor::<2, Int>::from_data(TensorData::new(chosen, [n, k]), &device);
            let upstream = random([n, o], &device);
            for dropout in [None, Some(mask(n))] {
                // An x that is not tracked stands in a first layer: it has no gradient of its own.
                let run = |how: How, tracked: bool, normed: bool| {
                    let (gate, up) = (leaf(&gate), leaf(&up));
                    let (a, b, weights) = (leaf(&a), leaf(&b), leaf(&weights));
                    let mut x = match normed {
                        false => Activation {
                            value: swiglu(gate.clone(), up.clone()),
                            origin: Origin::SwiGlu {
                                gate: gate.clone(),
                                up: up.clone(),
                            },
                        },
                        true => Activation {
                            value: rms_norm(gate.clone(), gain.clone(), 1e-5),
                            origin: Origin::RmsNorm {
                                x: gate.clone(),
                                gain: gain.clone(),
                                eps: 1e-5,
                            },
                        },
                    };
                    if !tracked {
                        x.value = x.value.detach();
                    }
                    let mixture = Mixture {
                        a: a.clone(),
                        b: b.clone(),
                        experts: index.clone(),
                        weights: weights.clone(),
                        dropout: dropout.clone(),
                    };
                    let y = match how {
                        How::Parts => {
                            let base = linear::composed(x.value.clone(), frozen.clone());
                            low_rank::composed(base, x.value, mixture)
                        }
                        How::Kept => adapted_linear(x.value.into(), frozen.clone(), mixture),
                        How::Again => adapted_linear(x, frozen.clone(), mixture),
                        How::LeanKept => {
                            lean(Base::Weight(frozen.clone()), x.value.into(), mixture)
                        }
                        How::LeanAgain => lean(Base::Weight(frozen.clone()), x, mixture),
                    };
                    let grads = (y.clone() * upstream.clone()).sum().backward();
                    let of = |t: &Tensor<2>| t.grad(&grads);
                    let matrices = [a, b].map(|t| t.grad(&grads).unwrap());
                    (
                        y.without_autodiff(),
                        [of(&gate), of(&up), of(&weights)],
                        matrices,
                    )
                };
                for (tracked, normed) in
                    [(true, false), (false, false), (true, true), (false, true)]
                {
                    let parts = run(How::Parts, tracked, normed);
                    for how in [How::Kept, How::Again, How::LeanKept, How::LeanAgain] {
                        let fused = run(how, tracked, normed);
                        assert_close(fused.0, parts.0.clone(), 1e-5);
                        for (fused, part) in fused.1.into_iter().zip(parts.1.clone()) {
                            assert_eq!(fused.is_some(), part.is_some());
                            if let (Some(fused), Some(part)) = (fused, part) {
                                assert_close(fused, part, 1e-4);
                            }
                        }
                        for (fused, part) in fused.2.into_iter().zip(parts.2.clone()) {
                            assert_close(fused, part, 1e-4);
                        }
                    }
                }
            }
        }
    }
}
