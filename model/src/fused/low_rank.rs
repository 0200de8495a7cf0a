//! The low-rank update of a mixture of experts, computed for the chosen experts only.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use super::activation::Source;
use super::{Implementation, propagate, tracked};
use crate::dropout::{Dropout, Mask, masked};

mod flex;
mod groups;
pub(super) mod lean;

/// Low-rank matrices of several experts, and which of them serve each row. A plain LoRA is a
/// mixture of one.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// A of each expert, `[experts, d, r]`.
    pub a: Tensor<3>,
    /// B of each expert, `[experts, r, o]`.
    pub b: Tensor<3>,
    /// The experts that serve each row, all different within a row, `[n, k]`.
    pub experts: Tensor<2, Int>,
    /// The factors of these experts' updates, `[n, k]`.
    pub weights: Tensor<2>,
    /// The dropout mask on the input of A, if any.
    pub dropout: Option<Mask>,
}

/// Row n of the result is `base_n + sum_j weights[n, j] * drop(x_n) A_e B_e` with
/// `e = experts[n, j]` (Eq. 4, the frozen part given).
///
/// # Shapes
/// - base, output: `[n, o]`
/// - x: `[n, d]`
pub fn add_low_rank(base: Tensor<2>, x: Tensor<2>, mixture: Mixture) -> Tensor<2> {
    match Implementation::of(&[&x]) {
        Implementation::Flex => Tensor::from_dispatch(Dispatch::add_low_rank(
            base.into_dispatch(),
            x.into_dispatch(),
            mixture.into_dispatch(),
        )),
        Implementation::Lean => lean::lean(lean::Base::Given(base), x.into(), mixture),
        Implementation::Composed => composed(base, x, mixture),
    }
}

/// [`add_low_rank()`] from Burn's own operations: all experts stacked side by side, three products.
/// The weights of experts that are not chosen are zero.
pub fn composed(base: Tensor<2>, x: Tensor<2>, mixture: Mixture) -> Tensor<2> {
    let Mixture { a, b, .. } = mixture;
    let ([n, _], [experts, d, r], [_, _, o]) = (x.dims(), a.dims(), b.dims());
    let weights = Tensor::<2>::zeros([n, experts], (&x.device(), x.dtype()))
        .scatter(1, mixture.experts, mixture.weights, IndexingUpdateOp::Add)
        .unsqueeze_dim::<3>(2)
        .expand([n, experts, r])
        .reshape([n, experts * r]);
    let hidden = masked(x, mixture.dropout).matmul(a.swap_dims(0, 1).reshape([d, experts * r]));
    base + (hidden * weights).matmul(b.reshape([experts * r, o]))
}

impl Mixture {
    /// The mixture as Burn dispatches it.
    pub(super) fn into_dispatch(self) -> MixturePrimitive<Dispatch> {
        MixturePrimitive {
            a: self.a.into_dispatch(),
            b: self.b.into_dispatch(),
            experts: self.experts.into_dispatch(),
            weights: self.weights.into_dispatch(),
            dropout: Mask::into_dispatch(self.dropout),
        }
    }
}

/// A [`Mixture`] on the primitives of a backend.
#[derive(ExtensionType, Clone, Debug)]
pub struct MixturePrimitive<B: Backend> {
    /// See [`Mixture::a`], `[experts, d, r]`.
    pub a: FloatTensor<B>,
    /// See [`Mixture::b`], `[experts, r, o]`.
    pub b: FloatTensor<B>,
    /// See [`Mixture::experts`], `[n, k]`.
    pub experts: IntTensor<B>,
    /// See [`Mixture::weights`], `[n, k]`.
    pub weights: FloatTensor<B>,
    /// See [`Mixture::dropout`].
    #[extension_type]
    pub dropout: Dropout<B>,
}

impl<B: Backend, C: CheckpointStrategy> MixturePrimitive<Autodiff<B, C>> {
    /// The mixture outside the graph, and the nodes of a, b and weights.
    pub(super) fn into_parts(self) -> (MixturePrimitive<B>, [NodeGuard; 3]) {
        let (a, a_node) = self.a.into_parts();
        let (b, b_node) = self.b.into_parts();
        let (weights, weights_node) = self.weights.into_parts();
        let mixture = MixturePrimitive {
            a,
            b,
            experts: self.experts,
            weights,
            dropout: self.dropout.inner(),
        };
        (mixture, [a_node, b_node, weights_node])
    }
}

/// What the backward pass reads: handles, not copies.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    /// Where x is found again.
    pub x: Source<B>,
    /// The mixture of the forward pass.
    pub mixture: MixturePrimitive<B>,
    /// The unweighted hidden rows that the forward pass returned, `[n k, r]`.
    pub hidden: FloatTensor<B>,
    /// The frozen weight `[o, d]`, where the product with it belongs to the operation. Its part of
    /// the gradient to x is then added.
    pub frozen: Option<FloatTensor<B>>,
}

/// The forward and backward pass of [`add_low_rank()`] as a backend implements them.
pub trait Kernels: Backend {
    /// Returns y `[n, o]` and the unweighted hidden rows `drop(x) A` `[n k, r]`, in the order of
    /// [`Mixture::experts`].
    fn forward(
        base: FloatTensor<Self>,
        x: &FloatTensor<Self>,
        mixture: &MixturePrimitive<Self>,
    ) -> [FloatTensor<Self>; 2];
    /// Returns the gradients to x, a, b and weights. `needs` says which of them are wanted.
    fn backward(
        saved: Saved<Self>,
        grad: FloatTensor<Self>,
        needs: [bool; 4],
    ) -> [Option<FloatTensor<Self>>; 4];
}

/// [`add_low_rank()`] as Burn dispatches it.
#[backend_extension(Flex, Autodiff)]
pub trait Extension: Backend {
    /// See [`add_low_rank()`].
    fn add_low_rank(
        base: FloatTensor<Self>,
        x: FloatTensor<Self>,
        #[extension_type] mixture: MixturePrimitive<Self>,
    ) -> FloatTensor<Self>;
}

impl Extension for Flex {
    fn add_low_rank(
        base: FlexTensor,
        x: FlexTensor,
        mixture: MixturePrimitive<Self>,
    ) -> FlexTensor {
        let [y, _] = Self::forward(base, &x, &mixture);
        y
    }
}

impl<B: Kernels, C: CheckpointStrategy> Extension for Autodiff<B, C> {
    fn add_low_rank(
        base: FloatTensor<Self>,
        x: FloatTensor<Self>,
        mixture: MixturePrimitive<Self>,
    ) -> FloatTensor<Self> {
        let (base, base_node) = base.into_parts();
        let (x, x_node) = x.into_parts();
        let (mixture, [a_node, b_node, weights_node]) = mixture.into_parts();
        let [y, hidden] = B::forward(base, &x, &mixture);
        let saved = Saved {
            x: Source::Kept { x },
            mixture,
            hidden,
            frozen: None,
        };
        let inputs = [base_node, x_node, a_node, b_node, weights_node];
        tracked::<B, C, _, 5>(LowRankBackward, inputs, saved, y)
    }
}

#[derive(Debug)]
struct LowRankBackward;

impl<B: Kernels> Backward<B, 5> for LowRankBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        propagate::<B, _, 5>(ops, grads, |saved, grad, [_, needs @ ..]| {
            let [dx, da, db, dw] = B::backward(saved, grad.clone(), needs);
            [Some(grad), dx, da, db, dw]
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Distribution, TensorData};

    use super::*;
    use crate::dropout::testing::mask;
    use crate::fused::rms_norm;
    use crate::fused::testing::{assert_close, leaf, random};

    #[test]
    fn grouped_low_rank_equals_its_composed_form_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(2);
        // One row, an expert nobody chose (index below 3 of 4), k = 1 and k = E, odd sizes, a
        // strided x.
        for (n, d, r, o, experts, k) in [
            (1, 5, 3, 7, 4, 1),
            (131, 37, 4, 19, 4, 2),
            (70, 32, 16, 33, 3, 3),
            // A mixture of one: a plain LoRA.
            (1, 5, 3, 7, 1, 1),
            (150, 37, 21, 19, 1, 1),
        ] {
            let x = random([d, n], &device);
            let (a, b) = (
                random([experts, d, r], &device),
                random([experts, r, o], &device),
            );
            let weights = random([n, k], &device);
            let chosen: Vec<i64> = (0..n * k)
                .map(|i| ((i / k * 7 + i % k) % experts.min(k.max(3))) as i64)
                .collect();
            let index = Tensor::<2, Int>::from_data(TensorData::new(chosen, [n, k]), &device);
            let (upstream, base) = (random([n, o], &device), random([o, n], &device));
            for dropout in [None, Some(mask(n))] {
                let run = |op: fn(Tensor<2>, Tensor<2>, Mixture) -> Tensor<2>| {
                    let (x, base) = (leaf(&x), leaf(&base));
                    let (a, b, weights) = (leaf(&a), leaf(&b), leaf(&weights));
                    let mixture = Mixture {
                        a: a.clone(),
                        b: b.clone(),
                        experts: index.clone(),
                        weights: weights.clone(),
                        dropout: dropout.clone(),
                    };
                    let y = op(base.clone().transpose(), x.clone().transpose(), mixture);
                    let grads = (y.clone() * upstream.clone()).sum().backward();
                    let (dx, da) = (x.grad(&grads).unwrap(), a.grad(&grads).unwrap());
                    let (db, dw) = (b.grad(&grads).unwrap(), weights.grad(&grads).unwrap());
                    let d_base = base.grad(&grads).unwrap();
                    (y.without_autodiff(), (dx, d_base), da, db, dw)
                };
                let c = run(composed);
                let lean = |base, x: Tensor<2>, mixture| {
                    lean::lean(lean::Base::Given(base), x.into(), mixture)
                };
                for f in [run(add_low_rank), run(lean)] {
                    assert_close(f.0, c.0.clone(), 1e-5);
                    assert_close(f.1.0, c.1.0.clone(), 1e-4);
                    assert_close(f.1.1, c.1.1.clone(), 1e-6);
                    assert_close(f.2, c.2.clone(), 1e-4);
                    assert_close(f.3, c.3.clone(), 1e-4);
                    assert_close(f.4, c.4.clone(), 1e-4);
                }
            }
        }
    }

    #[test]
    fn composed_gradients_agree_with_finite_differences_in_f64() {
        let device = Device::flex();
        device.seed(3);
        let tracked = device.clone().autodiff();
        let kind = (&device, DType::F64);
        let values: Vec<f64> = (0..6).map(|i| f64::sin(i as f64 * 1.3)).collect();
        let uniform = Distribution::Uniform(-1., 1.);
        let mixture = Mixture {
            a: Tensor::random([3, 3, 2], uniform, kind),
            b: Tensor::random([3, 2, 2], uniform, kind),
            experts: Tensor::from_data([[0, 2], [2, 1]], &device),
            weights: Tensor::from_data(TensorData::new(vec![0.3f64, 0.7, 0.2, 0.1], [2, 2]), kind),
            dropout: None,
        };
        let f = |values: &[f64], device: &Device| {
            let x = TensorData::new(values.to_vec(), [2, 3]);
            let x = Tensor::<2>::from_data(x, (device, DType::F64)).require_grad();
            let gain = TensorData::new(vec![0.5f64, 1.5, -1.0], [3]);
            let gain = Tensor::<1>::from_data(gain, (device, DType::F64));
            let normed = rms_norm::composed(x.clone(), gain, 1e-3);
            let base = x.clone().slice([0..2, 0..2]);
            let y = composed(base, normed, mixture.clone());
            (x, y.square().sum())
        };
        let (x, loss) = f(&values, &tracked);
        let grads = loss.backward();
        let found = x
            .grad(&grads)
            .unwrap()
            .into_data()
            .try_into_vec_as::<f64>()
            .unwrap();
        for i in 0..6 {
            let at = |step: f64| {
                let mut moved = values.clone();
                moved[i] += step;
                f(&moved, &tracked).1.into_scalar::<f64>()
            };
            let numeric = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!(
                (numeric - found[i]).abs() < 1e-6,
                "{i}: {numeric} {}",
                found[i]
            );
        }
    }
}
