//! The low-rank update from Burn's own operations, all experts side by side. Of what grows with the
//! tokens the graph keeps the hidden rows alone, and x where nothing says how it was computed.

use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};

use super::Mixture;
use crate::dropout::{Mask, masked};
use crate::fused::activation::{Activation, Source};
use crate::fused::graph::{Kept, enter, plain, whole};
use crate::fused::linear;

/// `base + mixture(x)`, and the product with the frozen weight too where one is given instead of
/// `base`.
pub(in crate::fused) enum Base {
    /// The frozen part, `[n, o]`.
    Given(Tensor<2>),
    /// The frozen weight, `[o, d]`.
    Weight(Tensor<2>),
}

/// [`super::add_low_rank`] and [`crate::fused::adapted_linear::adapted_linear`] in lean form.
pub(in crate::fused) fn lean(base: Base, x: Activation, mixture: Mixture) -> Tensor<2> {
    let kind = x.value.dtype();
    let value = whole(&plain(&x.value));
    let experts = mixture.experts.clone().without_autodiff();
    let source = x.plain_source();
    let (plain_a, plain_b) = (plain(&mixture.a), plain(&mixture.b));
    let weights = plain(&mixture.weights);
    let stack = Stack::new(plain_a.clone(), plain_b.clone(), &experts, weights.clone());
    let hidden = masked(value.clone(), mixture.dropout.clone()).matmul(stack.a.clone());
    let update = (hidden.clone() * stack.weights.clone()).matmul(stack.b.clone());
    let (y, frozen) = match &base {
        Base::Given(base) => (plain(base) + update, None),
        Base::Weight(weight) => {
            let weight = plain(weight);
            (
                linear::in_its_type(value, weight.clone()) + update,
                Some(weight),
            )
        }
    };
    let kept = Saved {
        source,
        experts,
        weights,
        a: plain_a,
        b: plain_b,
        dropout: mixture.dropout,
        hidden,
        frozen,
        kind,
    };
    let [a, b] = [mixture.a, mixture.b].map(Tensor::into_dispatch);
    let (x, weights) = (x.value.into_dispatch(), mixture.weights.into_dispatch());
    match base {
        Base::Given(base) => enter([x, a, b, weights, base.into_dispatch()], y, WithBase(kept)),
        Base::Weight(_) => enter([x, a, b, weights], y, kept),
    }
}

/// The matrices of all experts side by side.
struct Stack {
    /// `[d, experts r]`
    a: Tensor<2>,
    /// `[experts r, o]`
    b: Tensor<2>,
    /// Each row's weight of each hidden value, `[n, experts r]`; 0 for experts that are not chosen.
    weights: Tensor<2>,
}

impl Stack {
    fn new(a: Tensor<3>, b: Tensor<3>, chosen: &Tensor<2, Int>, weights: Tensor<2>) -> Self {
        let ([experts, d, r], [_, _, o]) = (a.dims(), b.dims());
        let [n, _] = weights.dims();
        let weights = Tensor::<2>::zeros([n, experts], (&weights.device(), weights.dtype()))
            .scatter(1, chosen.clone(), weights, IndexingUpdateOp::Add)
            .unsqueeze_dim::<3>(2)
            .expand([n, experts, r])
            .reshape([n, experts * r]);
        Self {
            a: a.swap_dims(0, 1).reshape([d, experts * r]),
            b: b.reshape([experts * r, o]),
            weights,
        }
    }
}

/// What the backward pass reads.
#[derive(Debug, Clone)]
struct Saved {
    source: Source<Dispatch>,
    experts: Tensor<2, Int>,
    weights: Tensor<2>,
    a: Tensor<3>,
    b: Tensor<3>,
    dropout: Option<Mask>,
    /// `drop(x) A` of all experts, `[n, experts r]`.
    hidden: Tensor<2>,
    frozen: Option<Tensor<2>>,
    /// The type of x.
    kind: DType,
}

impl Kept<4> for Saved {
    /// The gradients to x, A, B and the weights. With `u` the weighted hidden rows and
    /// `du = dy B^T`: `dB = u^T dy`, `dh = w du`, `dA = drop(x)^T dh`, `dx = drop(dh A^T)`, and
    /// `dw` the sum of `du h` over an expert's hidden values.
    fn backward(self, grad: DispatchTensor, needs: [bool; 4]) -> [Option<DispatchTensor>; 4] {
        let dy = Tensor::<2>::from_dispatch(grad);
        let [n, _] = dy.dims();
        let ([experts, d, r], [_, _, o]) = (self.a.dims(), self.b.dims());
        let stack = Stack::new(self.a, self.b, &self.experts, self.weights);
        let db = needs[2].then(|| {
            let weighted = self.hidden.clone() * stack.weights.clone();
            let db = weighted.transpose().matmul(dy.clone());
            db.reshape([experts, r, o]).into_dispatch()
        });
        let du = dy.clone().matmul(stack.b.transpose());
        let dw = needs[3].then(|| {
            let all = (du.clone() * self.hidden).reshape([n, experts, r]);
            let all = all.sum_dim(2).reshape([n, experts]);
            all.gather(1, self.experts).into_dispatch()
        });
        let dh = du * stack.weights;
        let da = needs[1].then(|| {
            let x = masked(self.source.value(), self.dropout.clone());
            let da = x.transpose().matmul(dh.clone());
            da.reshape([d, experts, r]).swap_dims(0, 1).into_dispatch()
        });
        let dx = needs[0].then(|| {
            let dx = masked(dh.matmul(stack.a.transpose()), self.dropout);
            let dx = match self.frozen {
                Some(weight) => dx + linear::gradient_in_its_type(dy, weight),
                None => dx,
            };
            dx.cast(self.kind).into_dispatch()
        });
        [dx, da, db, dw]
    }
}

/// [`Saved`] where the frozen part is an input of its own, the last.
#[derive(Debug, Clone)]
struct WithBase(Saved);

impl Kept<5> for WithBase {
    fn backward(self, grad: DispatchTensor, needs: [bool; 5]) -> [Option<DispatchTensor>; 5] {
        let [x, a, b, weights, _] = needs;
        let [dx, da, db, dw] = self.0.backward(grad.clone(), [x, a, b, weights]);
        [dx, da, db, dw, Some(grad)]
    }
}
