//! Operations with a hand-written forward and backward on the CPU backend `flex`, each beside its composed form.
//!
//! The kernels exist for f32 on flex. Every other device or type runs the composed form, which is also what the tests compare
//! with. One file holds one operation: the public function, the composed form, the two kernels.

use burn::backend::TensorMetadata;
use burn::backend::autodiff::{
    Autodiff, NodeId,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

pub mod adamw;
pub mod attention;
mod exponential;
pub mod linear;
pub mod log_likelihood;
pub mod low_rank;
mod matrix;
pub mod rms_norm;
mod room;
pub mod route;
pub mod swiglu;
mod thin;

use crate::adapter::dropout::Mask;
use attention::Attention;
use low_rank::{Saved, Source};

/// Inputs of the grouped low-rank product, see [`low_rank::add_low_rank`].
#[derive(ExtensionType, Clone, Debug)]
pub struct LowRank<B: Backend> {
    /// `[n, o]`; for [`low_rank::adapted_linear`] the frozen weight, `[o, d]`
    pub base: FloatTensor<B>,
    /// `[n, d]`
    pub x: FloatTensor<B>,
    /// `[experts, d, r]`
    pub a: FloatTensor<B>,
    /// `[experts, r, o]`
    pub b: FloatTensor<B>,
    /// `[n, k]`
    pub weight: FloatTensor<B>,
    /// `[n, k]`
    pub index: IntTensor<B>,
    /// The mask on x.
    pub dropout: Option<Mask>,
}

/// What an input was computed from: who reads it then need not keep it for the backward pass.
#[derive(Clone, Debug)]
pub enum Made {
    /// Nothing that would let it be computed again.
    Unknown,
    /// [`swiglu::swiglu`] of these, `[n, d]`.
    Gated([Tensor<2>; 2]),
    /// [`rms_norm::rms_norm`] of x `[n, d]` with a gain `[d]` and epsilon.
    Normed(Tensor<2>, Tensor<1>, f64),
}

impl Made {
    fn into_dispatch(self) -> Origin<Dispatch> {
        match self {
            Self::Unknown => Origin::Unknown,
            Self::Gated([gate, up]) => Origin::Gated {
                gate: gate.into_dispatch(),
                up: up.into_dispatch(),
            },
            Self::Normed(x, gain, eps) => Origin::Normed {
                x: x.into_dispatch(),
                gain: gain.into_dispatch(),
                eps,
            },
        }
    }
}

/// [`Made`] of primitives.
#[derive(ExtensionType, Clone, Debug)]
pub enum Origin<B: Backend> {
    /// See [`Made::Unknown`].
    Unknown,
    /// See [`Made::Gated`].
    Gated {
        /// `[n, d]`
        gate: FloatTensor<B>,
        /// `[n, d]`
        up: FloatTensor<B>,
    },
    /// See [`Made::Normed`].
    Normed {
        /// `[n, d]`
        x: FloatTensor<B>,
        /// `[d]`
        gain: FloatTensor<B>,
        /// Epsilon.
        eps: f64,
    },
}

impl<B: Kernels, C: CheckpointStrategy> Origin<Autodiff<B, C>> {
    /// Where the backward pass finds this input; its gradient goes by its own node.
    fn source(self, x: FloatTensor<B>) -> Source<B> {
        let shape = x.shape();
        let like = |part: &FloatTensor<B>| debug_assert_eq!(part.shape(), shape);
        match self {
            Self::Unknown => Source::Kept(x),
            Self::Gated { gate, up } => {
                let parts = [gate, up].map(|part| part.into_parts().0);
                parts.iter().for_each(like);
                Source::Gated(parts)
            }
            Self::Normed { x, gain, eps } => {
                let (x, gain) = (x.into_parts().0, gain.into_parts().0);
                like(&x);
                Source::Normed([x, gain], eps)
            }
        }
    }
}

/// Forward and backward kernels on plain primitives. `needs` names the inputs whose gradient is wanted.
pub trait Kernels: Backend {
    /// Returns y `[n, d]` and 1 / rms `[n]`.
    fn rms_forward(
        x: &FloatTensor<Self>,
        gain: &FloatTensor<Self>,
        eps: f64,
    ) -> [FloatTensor<Self>; 2];
    /// The gradient to x; the gain is frozen.
    fn rms_backward(saved: [FloatTensor<Self>; 3], grad: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`swiglu::swiglu`].
    fn swiglu_forward(gate: &FloatTensor<Self>, up: &FloatTensor<Self>) -> FloatTensor<Self>;
    /// Gradients to gate and up.
    fn swiglu_backward(
        saved: [FloatTensor<Self>; 2],
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];
    /// Returns the log-likelihoods `[targets]` and `ln sum exp` of each row.
    fn log_likelihood_forward(
        logits: &FloatTensor<Self>,
        row: &IntTensor<Self>,
        token: &IntTensor<Self>,
    ) -> [FloatTensor<Self>; 2];
    /// The gradient to the logits, from the logits and `ln sum exp`, at the targets' rows and tokens.
    fn log_likelihood_backward(
        saved: [FloatTensor<Self>; 2],
        at: [IntTensor<Self>; 2],
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// Returns y `[n, o]` and the unweighted hidden rows `drop(x) A` `[n k, r]`, in the order of the index.
    fn low_rank_forward(inputs: LowRank<Self>) -> [FloatTensor<Self>; 2];
    /// Gradients to x, a, b and weight.
    fn low_rank_backward(
        saved: Saved<Self>,
        grad: FloatTensor<Self>,
        needs: [bool; 4],
    ) -> [Option<FloatTensor<Self>>; 4];
    /// See [`route::route`].
    fn route_forward(x: &FloatTensor<Self>, weight: &FloatTensor<Self>) -> FloatTensor<Self>;
    /// Gradients to x and weight, from the weight and the probabilities.
    fn route_backward(
        x: Source<Self>,
        saved: [FloatTensor<Self>; 2],
        grad: FloatTensor<Self>,
        needs: [bool; 2],
    ) -> [Option<FloatTensor<Self>>; 2];
    /// See [`linear::linear`].
    fn linear_forward(x: &FloatTensor<Self>, weight: &FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient to x; the weight is frozen.
    fn linear_backward(weight: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Returns the output and each query's `ln sum exp`.
    fn attention_forward(inputs: &Attention<Self>) -> [FloatTensor<Self>; 2];
    /// Gradients to q, k and v, from what the forward pass returned.
    fn attention_backward(
        inputs: &Attention<Self>,
        outputs: [FloatTensor<Self>; 2],
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
}

/// The operations as Burn dispatches them; the macro writes the implementation that unwraps run-time tensors.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    /// See [`rms_norm::rms_norm`].
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    /// See [`swiglu::swiglu`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`log_likelihood::log_likelihood`].
    fn log_likelihood(
        logits: FloatTensor<Self>,
        row: IntTensor<Self>,
        token: IntTensor<Self>,
    ) -> FloatTensor<Self>;
    /// See [`low_rank::add_low_rank`].
    fn add_low_rank(#[extension_type] inputs: LowRank<Self>) -> FloatTensor<Self>;
    /// See [`low_rank::adapted_linear`].
    fn adapted_linear(
        #[extension_type] inputs: LowRank<Self>,
        #[extension_type] of: Origin<Self>,
    ) -> FloatTensor<Self>;
    /// See [`route::route`].
    fn route(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] of: Origin<Self>,
    ) -> FloatTensor<Self>;
    /// See [`linear::linear`].
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`attention::rotary_attention`].
    fn rotary_attention(#[extension_type] inputs: Attention<Self>) -> FloatTensor<Self>;
}

impl FusedOps for Flex {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let [y, _] = Self::rms_forward(&x, &gain, eps);
        y
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::swiglu_forward(&gate, &up)
    }

    fn log_likelihood(
        logits: FloatTensor<Self>,
        row: IntTensor<Self>,
        token: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let [y, _] = Self::log_likelihood_forward(&logits, &row, &token);
        y
    }

    fn add_low_rank(inputs: LowRank<Self>) -> FloatTensor<Self> {
        let [y, _] = Self::low_rank_forward(inputs);
        y
    }

    fn adapted_linear(inputs: LowRank<Self>, of: Origin<Self>) -> FloatTensor<Self> {
        // Without a backward pass what x was made from has served.
        drop(of);
        let base = Self::linear_forward(&inputs.x, &inputs.base);
        Self::add_low_rank(LowRank { base, ..inputs })
    }

    fn route(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        of: Origin<Self>,
    ) -> FloatTensor<Self> {
        drop(of);
        Self::route_forward(&x, &weight)
    }

    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::linear_forward(&x, &weight)
    }

    fn rotary_attention(inputs: Attention<Self>) -> FloatTensor<Self> {
        let [y, _] = Self::attention_forward(&inputs);
        y
    }
}

/// Hands its gradient to each parent that is tracked.
fn register<B: Backend>(
    grads: &mut Gradients,
    parents: impl IntoIterator<Item = Option<NodeId>>,
    found: impl IntoIterator<Item = Option<FloatTensor<B>>>,
) {
    for pair in parents.into_iter().zip(found) {
        if let (Some(parent), Some(grad)) = pair {
            grads.register::<B>(parent, grad);
        }
    }
}

#[derive(Debug)]
struct RmsNormBackward;

impl<B: Kernels> Backward<B, 1> for RmsNormBackward {
    /// x, gain, 1 / rms: handles, not copies.
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, gain, inverse) = ops.state;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::rms_backward([x, gain, inverse], grad));
        }
    }
}

#[derive(Debug)]
struct SwigluBackward;

impl<B: Kernels> Backward<B, 2> for SwigluBackward {
    /// gate, up: handles, not copies.
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let found = B::swiglu_backward(ops.state, grad);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B>(grads, parents, found.map(Some));
    }
}

#[derive(Debug)]
struct LogLikelihoodBackward;

impl<B: Kernels> Backward<B, 1> for LogLikelihoodBackward {
    /// Logits and `ln sum exp`; rows and tokens of the targets.
    type State = ([FloatTensor<B>; 2], [IntTensor<B>; 2]);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (saved, at) = ops.state;
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::log_likelihood_backward(saved, at, grad));
        }
    }
}

#[derive(Debug)]
struct LowRankBackward;

impl<B: Kernels> Backward<B, 5> for LowRankBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [base, parents @ ..] = ops.parents;
        let needs = parents.each_ref().map(Option::is_some);
        let found = B::low_rank_backward(ops.state, grad.clone(), needs);
        if let Some(base) = base {
            grads.register::<B>(base.id, grad);
        }
        let parents = parents.map(|parent| parent.map(|parent| parent.id));
        register::<B>(grads, parents, found);
    }
}

#[derive(Debug)]
struct AdaptedLinearBackward;

impl<B: Kernels> Backward<B, 4> for AdaptedLinearBackward {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let needs = ops.parents.each_ref().map(Option::is_some);
        let found = B::low_rank_backward(ops.state, grad, needs);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B>(grads, parents, found);
    }
}

#[derive(Debug)]
struct RouteBackward;

impl<B: Kernels> Backward<B, 2> for RouteBackward {
    /// x, the weight and the probabilities: handles, not copies.
    type State = (Source<B>, [FloatTensor<B>; 2]);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let needs = ops.parents.each_ref().map(Option::is_some);
        let (x, saved) = ops.state;
        let found = B::route_backward(x, saved, grad, needs);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B>(grads, parents, found);
    }
}

#[derive(Debug)]
struct LinearBackward;

impl<B: Kernels> Backward<B, 1> for LinearBackward {
    /// The weight: a handle, not a copy.
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, B::linear_backward(ops.state, grad));
        }
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: Kernels> Backward<B, 3> for AttentionBackward {
    /// The inputs and what the forward pass returned: handles, not copies.
    type State = (Attention<B>, [FloatTensor<B>; 2]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (inputs, outputs) = ops.state;
        let found = B::attention_backward(&inputs, outputs, grad);
        let parents = ops.parents.map(|parent| parent.map(|parent| parent.id));
        register::<B>(grads, parents, found.map(Some));
    }
}

impl<B: Kernels, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (gain, _) = gain.into_parts();
        let [y, inverse] = B::rms_forward(&x, &gain, eps);
        match RmsNormBackward
            .prepare::<C>([x_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((x, gain, inverse), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (gate, gate_node) = gate.into_parts();
        let (up, up_node) = up.into_parts();
        let y = B::swiglu_forward(&gate, &up);
        match SwigluBackward
            .prepare::<C>([gate_node, up_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish([gate, up], y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn log_likelihood(
        logits: FloatTensor<Self>,
        row: IntTensor<Self>,
        token: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        let [y, sums] = B::log_likelihood_forward(&logits, &row, &token);
        match LogLikelihoodBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(([logits, sums], [row, token]), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn add_low_rank(inputs: LowRank<Self>) -> FloatTensor<Self> {
        let (base, base_node) = inputs.base.into_parts();
        let (x, x_node) = inputs.x.into_parts();
        let (a, a_node) = inputs.a.into_parts();
        let (b, b_node) = inputs.b.into_parts();
        let (weight, weight_node) = inputs.weight.into_parts();
        let (index, dropout) = (inputs.index, inputs.dropout);
        let [y, hidden] = B::low_rank_forward(LowRank {
            base,
            x: x.clone(),
            a: a.clone(),
            b: b.clone(),
            weight: weight.clone(),
            index: index.clone(),
            dropout,
        });
        match LowRankBackward
            .prepare::<C>([base_node, x_node, a_node, b_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(
                Saved {
                    x: Source::Kept(x),
                    tensors: [a, b, weight, hidden],
                    index,
                    dropout,
                    frozen: None,
                },
                y,
            ),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn adapted_linear(inputs: LowRank<Self>, of: Origin<Self>) -> FloatTensor<Self> {
        let (frozen, _) = inputs.base.into_parts();
        let (x, x_node) = inputs.x.into_parts();
        let (a, a_node) = inputs.a.into_parts();
        let (b, b_node) = inputs.b.into_parts();
        let (weight, weight_node) = inputs.weight.into_parts();
        let (index, dropout) = (inputs.index, inputs.dropout);
        let [y, hidden] = B::low_rank_forward(LowRank {
            base: B::linear_forward(&x, &frozen),
            x: x.clone(),
            a: a.clone(),
            b: b.clone(),
            weight: weight.clone(),
            index: index.clone(),
            dropout,
        });
        let x = of.source(x);
        match AdaptedLinearBackward
            .prepare::<C>([x_node, a_node, b_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(
                Saved {
                    x,
                    tensors: [a, b, weight, hidden],
                    index,
                    dropout,
                    frozen: Some(frozen),
                },
                y,
            ),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn route(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        of: Origin<Self>,
    ) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let p = B::route_forward(&x, &weight);
        let x = of.source(x);
        match RouteBackward
            .prepare::<C>([x_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((x, [weight, p.clone()]), p),
            OpsKind::UnTracked(prep) => prep.finish(p),
        }
    }

    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, _) = weight.into_parts();
        let y = B::linear_forward(&x, &weight);
        match LinearBackward
            .prepare::<C>([x_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(weight, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn rotary_attention(inputs: Attention<Self>) -> FloatTensor<Self> {
        let (q, q_node) = inputs.q.into_parts();
        let (k, k_node) = inputs.k.into_parts();
        let (v, v_node) = inputs.v.into_parts();
        let inputs = Attention::<B> {
            q,
            k,
            v,
            cos: inputs.cos.into_parts().0,
            sin: inputs.sin.into_parts().0,
            segments: inputs.segments,
            branches: inputs.branches,
            positions: inputs.positions,
            heads: inputs.heads,
        };
        let [y, sums] = B::attention_forward(&inputs);
        match AttentionBackward
            .prepare::<C>([q_node, k_node, v_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((inputs, [y.clone(), sums]), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// Whether a device has the kernels; equality ignores the autodiff context.
pub fn serves(device: &Device) -> bool {
    *device == Device::flex()
}

/// The kernels serve f32.
fn has_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    serves(&x.device()) && x.dtype() == DType::F32
}

impl Kernels for Flex {
    fn rms_forward(x: &FlexTensor, gain: &FlexTensor, eps: f64) -> [FlexTensor; 2] {
        rms_norm::forward(x, gain, eps)
    }

    fn rms_backward(saved: [FlexTensor; 3], grad: FlexTensor) -> FlexTensor {
        rms_norm::backward(saved, grad)
    }

    fn swiglu_forward(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
        swiglu::forward(gate, up)
    }

    fn swiglu_backward(saved: [FlexTensor; 2], grad: FlexTensor) -> [FlexTensor; 2] {
        swiglu::backward(saved, grad)
    }

    fn log_likelihood_forward(
        logits: &FlexTensor,
        row: &FlexTensor,
        token: &FlexTensor,
    ) -> [FlexTensor; 2] {
        log_likelihood::forward(logits, row, token)
    }

    fn log_likelihood_backward(
        saved: [FlexTensor; 2],
        at: [FlexTensor; 2],
        grad: FlexTensor,
    ) -> FlexTensor {
        log_likelihood::backward(saved, at, grad)
    }

    fn low_rank_forward(inputs: LowRank<Self>) -> [FlexTensor; 2] {
        low_rank::forward(inputs)
    }

    fn low_rank_backward(
        saved: Saved<Self>,
        grad: FlexTensor,
        needs: [bool; 4],
    ) -> [Option<FlexTensor>; 4] {
        low_rank::backward(saved, grad, needs)
    }

    fn route_forward(x: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
        route::forward(x, weight)
    }

    fn route_backward(
        x: Source<Self>,
        saved: [FlexTensor; 2],
        grad: FlexTensor,
        needs: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        route::backward(x, saved, grad, needs)
    }

    fn linear_forward(x: &FlexTensor, weight: &FlexTensor) -> FlexTensor {
        linear::forward(x, weight)
    }

    fn linear_backward(weight: FlexTensor, grad: FlexTensor) -> FlexTensor {
        linear::backward(weight, grad)
    }

    fn attention_forward(inputs: &Attention<Self>) -> [FlexTensor; 2] {
        attention::forward(inputs)
    }

    fn attention_backward(
        inputs: &Attention<Self>,
        outputs: [FlexTensor; 2],
        grad: FlexTensor,
    ) -> [FlexTensor; 3] {
        attention::backward(inputs, outputs, grad)
    }
}

/// Dimensions of a primitive.
fn dims<const D: usize>(t: &FlexTensor) -> [usize; D] {
    t.layout().shape().dims()
}

/// The values of a contiguous f32 primitive; incoming tensors may be views, so call `to_contiguous` first.
fn values(t: &FlexTensor) -> &[f32] {
    t.as_slice::<f32>()
        .expect("the kernels are chosen for f32 and called on contiguous tensors")
}

/// A primitive from its values.
fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, Shape::from(shape)))
}

/// The chosen experts; flex stores integers as i32 unless told otherwise.
fn integers(t: &FlexTensor) -> Vec<usize> {
    let t = t.to_contiguous();
    match t.dtype() {
        DType::I64 => t
            .as_slice::<i64>()
            .expect("contiguous i64")
            .iter()
            .map(|&i| i as usize)
            .collect(),
        _ => t
            .as_slice::<i32>()
            .expect("flex indices are i32 or i64")
            .iter()
            .map(|&i| i as usize)
            .collect(),
    }
}

/// Dot product with independent partial sums, so that the compiler can vectorise it.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Multiplies each row of `width` values by its factor.
fn scale_rows(rows: &mut [f32], width: usize, factors: &[f32]) {
    for (row, factor) in rows.chunks_mut(width).zip(factors) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
}

/// `to += from`
fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::dropout::DropoutSeed;
    use crate::rope::Angles;
    use attention::Heads;
    use burn::tensor::{Distribution, Int, Tolerance};

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
    }

    fn assert_close<const D: usize>(a: Tensor<D>, b: Tensor<D>, tolerance: f64) {
        a.into_data()
            .assert_approx_eq::<f32>(&b.into_data(), Tolerance::rel_abs(tolerance, tolerance));
    }

    /// A leaf with the values of `t`: a backward consumes the graph, so each path gets leaves of its own.
    fn leaf<const D: usize>(t: &Tensor<D>) -> Tensor<D> {
        Tensor::from_data(t.clone().into_data(), &Device::flex().autodiff()).require_grad()
    }

    #[test]
    fn rms_norm_equals_its_composed_form_in_value_and_gradient() {
        let device = Device::flex();
        device.seed(1);
        for (n, d) in [(1, 1), (71, 37), (64, 576)] {
            let (x, gain) = (random([n, d], &device), random([d], &device));
            let upstream = random([d, n], &device);
            let run = |op: fn(Tensor<2>, Tensor<1>, f64) -> Tensor<2>| {
                let x = leaf(&x);
                let y = op(x.clone(), gain.clone(), 1e-5);
                // The incoming gradient is a transposed view.
                let grads = (y.clone() * upstream.clone().transpose()).sum().backward();
                (y.without_autodiff(), x.grad(&grads).unwrap())
            };
            let (fused, composed) = (run(rms_norm::rms_norm), run(rms_norm::composed));
            assert_close(fused.0, composed.0, 1e-5);
            assert_close(fused.1, composed.1, 1e-4);
        }
    }

    #[test]
    fn linear_equals_its_composed_form_in_value_and_gradient() {
        let device = Device::flex();
        device.seed(6);
        for (n, d, o) in [(1, 1, 1), (71, 37, 19), (5, 64, 1000)] {
            let (x, weight) = (random([d, n], &device), random([o, d], &device));
            let upstream = random([n, o], &device);
            let run = |op: fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
                let x = leaf(&x);
                let y = op(x.clone().transpose(), weight.clone());
                let grads = (y.clone() * upstream.clone()).sum().backward();
                (y.without_autodiff(), x.grad(&grads).unwrap())
            };
            let (fused, composed) = (run(linear::linear), run(linear::composed));
            assert_close(fused.0, composed.0, 1e-5);
            assert_close(fused.1, composed.1, 1e-5);
        }
    }

    #[test]
    fn routing_equals_its_composed_form_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(8);
        // One row, several blocks of rows and of columns, more experts than a register holds.
        for (n, d, experts) in [(1, 3, 2), (150, 70, 8), (67, 130, 33)] {
            let (x, gain) = (random([n, d], &device) * 3.0, random([d], &device));
            let weight = random([d, experts], &device);
            let upstream = random([n, experts], &device);
            // What x is made from is followed to its own gradient, or x is cut off.
            for (normed, tracked) in [(false, true), (true, true), (true, false)] {
                let run = |fused: bool| {
                    let (start, weight) = (leaf(&x), leaf(&weight));
                    let (mut x, mut made) = (start.clone(), Made::Unknown);
                    if normed {
                        x = rms_norm::rms_norm(x, gain.clone(), 1e-5);
                        made = Made::Normed(start.clone(), gain.clone(), 1e-5);
                    }
                    if !tracked {
                        x = x.detach();
                    }
                    let p = match fused {
                        true => route::route((x, made), weight.clone()),
                        false => route::composed(x, weight.clone()),
                    };
                    let grads = (p.clone() * upstream.clone()).sum().backward();
                    let found = (start.grad(&grads), weight.grad(&grads).unwrap());
                    (p.without_autodiff(), found)
                };
                let (fused, composed) = (run(true), run(false));
                assert_close(fused.0, composed.0, 1e-5);
                assert_eq!(fused.1.0.is_some(), tracked);
                if let (Some(fused), Some(composed)) = (fused.1.0, composed.1.0) {
                    assert_close(fused, composed, 1e-5);
                }
                assert_close(fused.1.1, composed.1.1, 1e-5);
            }
        }
    }

    /// Segments, branches and positions of a row of each kind: padding on either side, two packed examples, branches after a
    /// trunk.
    fn rows(sequence: usize, device: &Device) -> attention::Visibility {
        let cell = |f: fn(usize, usize) -> [i64; 3], of: usize| {
            let all = (0..4 * sequence).map(|i| match i / sequence {
                0 => [(i % sequence >= 2) as i64, 0, (i % sequence) as i64],
                1 => [
                    (i % sequence + 3 < sequence) as i64,
                    0,
                    (i % sequence) as i64,
                ],
                _ => f(i / sequence, i % sequence),
            });
            let values: Vec<i64> = all.map(|cell| cell[of]).collect();
            Tensor::<2, Int>::from_data(TensorData::new(values, [4, sequence]), device)
        };
        let kinds = |row: usize, at: usize| match row {
            2 => [1 + at as i64 / 5, 0, at as i64 % 5],
            _ => [
                1,
                (at as i64 - 2).max(0) / 3,
                at as i64 - (at as i64 - 2).max(0) / 3,
            ],
        };
        let at = |of| cell(kinds, of);
        attention::Visibility::new(at(0), at(1), at(2))
    }

    #[test]
    fn attention_equals_its_composed_form_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(7);
        for (sequence, queries, keys, head_dim, window) in [
            (1, 1, 1, 2, None),
            (13, 4, 2, 6, Some(4)),
            (150, 3, 1, 8, None),
            (150, 4, 4, 16, Some(70)),
        ] {
            let heads = Heads {
                queries,
                keys,
                window,
            };
            let visibility = rows(sequence, &device).with_masks(std::iter::once(heads));
            let tokens = 4 * sequence;
            let angle = random([tokens, head_dim / 2], &device) * 3.0;
            let angles = Angles {
                cos: angle.clone().cos(),
                sin: angle.sin(),
            };
            let q = random([tokens, queries * head_dim], &device) * 2.0;
            let k = random([keys * head_dim, tokens], &device) * 2.0;
            let v = random([tokens, keys * head_dim], &device);
            // What comes out at padding means nothing and must not matter.
            let seen = visibility.segments.clone().greater_elem(0).float();
            let upstream = random([tokens, queries * head_dim], &device)
                * seen
                    .reshape([tokens, 1])
                    .expand([tokens, queries * head_dim]);
            let run =
                |op: fn([Tensor<2>; 3], &Angles, &attention::Visibility, Heads) -> Tensor<2>| {
                    let (q, k, v) = (leaf(&q), leaf(&k), leaf(&v));
                    let y = op(
                        [q.clone(), k.clone().transpose(), v.clone()],
                        &angles,
                        &visibility,
                        heads,
                    ) * upstream.clone();
                    let grads = y.clone().sum().backward();
                    let all = [q, k, v].map(|t| t.grad(&grads).unwrap());
                    (y.without_autodiff(), all)
                };
            let fused = run(attention::rotary_attention);
            let composed = run(attention::composed);
            assert_close(fused.0, composed.0, 1e-5);
            for (fused, composed) in fused.1.into_iter().zip(composed.1) {
                assert_close(fused, composed, 1e-4);
            }
        }
    }

    #[test]
    fn swiglu_equals_its_composed_form_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(4);
        for (n, d) in [(1, 1), (71, 37), (64, 1536)] {
            let (gate, up) = (random([n, d], &device) * 8.0, random([d, n], &device));
            let upstream = random([n, d], &device);
            let run = |op: fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
                let (gate, up) = (leaf(&gate), leaf(&up));
                // One of the inputs is a transposed view.
                let y = op(gate.clone(), up.clone().transpose());
                let grads = (y.clone() * upstream.clone()).sum().backward();
                let (d_gate, d_up) = (gate.grad(&grads).unwrap(), up.grad(&grads).unwrap());
                (y.without_autodiff(), d_gate, d_up)
            };
            let (fused, composed) = (run(swiglu::swiglu), run(swiglu::composed));
            assert_close(fused.0, composed.0, 1e-5);
            assert_close(fused.1, composed.1, 1e-5);
            assert_close(fused.2, composed.2, 1e-5);
        }
    }

    #[test]
    fn log_likelihood_equals_its_composed_form_in_value_and_gradient() {
        let device = Device::flex();
        device.seed(5);
        // A row that several targets read, one that none does, a repeated target.
        let row = Tensor::<1, Int>::from_data([0, 2, 2, 3, 3], &device);
        for width in [5, 16, 1003] {
            let logits = random([4, width], &device) * 30.0;
            let token = Tensor::<1, Int>::from_data([4, 0, 3, 1, 1], &device);
            let upstream: Tensor<1> = random([5], &device);
            let run = |op: fn(Tensor<2>, Tensor<1, Int>, Tensor<1, Int>) -> Tensor<1>| {
                let logits = leaf(&logits);
                let y = op(logits.clone(), row.clone(), token.clone());
                let grads = (y.clone() * upstream.clone()).sum().backward();
                (y.without_autodiff(), logits.grad(&grads).unwrap())
            };
            let fused = run(log_likelihood::log_likelihood);
            let composed = run(log_likelihood::composed);
            assert_close(fused.0, composed.0, 1e-5);
            assert_close(fused.1, composed.1, 1e-5);
        }
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
            let weight = random([n, k], &device);
            let chosen: Vec<i64> = (0..n * k)
                .map(|i| ((i / k * 7 + i % k) % experts.min(3)) as i64)
                .collect();
            let index = Tensor::<2, Int>::from_data(TensorData::new(chosen, [n, k]), &device);
            let upstream = random([n, o], &device);
            for dropout in [None, Mask::new(0.3, DropoutSeed::new(9))] {
                // How x is found again: the parts, kept, computed again; as in the first layer, without a gradient of its own.
                let run = |how: usize, tracked: bool, kind: &str| {
                    let (gate, up) = (leaf(&gate), leaf(&up));
                    let (a, b, weight) = (leaf(&a), leaf(&b), leaf(&weight));
                    let (mut x, made) = match kind {
                        "gated" => {
                            let parts = [gate.clone(), up.clone()];
                            (swiglu::swiglu(gate.clone(), up.clone()), Made::Gated(parts))
                        }
                        _ => {
                            let made = Made::Normed(gate.clone(), gain.clone(), 1e-5);
                            (rms_norm::rms_norm(gate.clone(), gain.clone(), 1e-5), made)
                        }
                    };
                    if !tracked {
                        x = x.detach();
                    }
                    let chosen = (index.clone(), weight.clone());
                    let y = if how == 0 {
                        let base = linear::composed(x.clone(), frozen.clone());
                        low_rank::composed(base, x, a.clone(), b.clone(), chosen, dropout)
                    } else {
                        low_rank::adapted_linear(
                            (x, if how == 2 { made } else { Made::Unknown }),
                            frozen.clone(),
                            a.clone(),
                            b.clone(),
                            chosen,
                            dropout,
                        )
                    };
                    let grads = (y.clone() * upstream.clone()).sum().backward();
                    let of = |t: &Tensor<2>| t.grad(&grads);
                    let matrices = [a, b].map(|t| t.grad(&grads).unwrap());
                    (
                        y.without_autodiff(),
                        [of(&gate), of(&up), of(&weight)],
                        matrices,
                    )
                };
                for (tracked, kind) in [
                    (true, "gated"),
                    (false, "gated"),
                    (true, "normed"),
                    (false, "normed"),
                ] {
                    let parts = run(0, tracked, kind);
                    for how in [1, 2] {
                        let fused = run(how, tracked, kind);
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

    type LowRankOp = fn(
        Tensor<2>,
        Tensor<2>,
        Tensor<3>,
        Tensor<3>,
        (Tensor<2, Int>, Tensor<2>),
        Option<Mask>,
    ) -> Tensor<2>;

    #[test]
    fn grouped_low_rank_equals_its_composed_form_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(2);
        // One row, an expert nobody chose (index below 3 of 4), k = 1 and k = E, odd sizes, a strided x.
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
            let weight = random([n, k], &device);
            let chosen: Vec<i64> = (0..n * k)
                .map(|i| ((i / k * 7 + i % k) % experts.min(k.max(3))) as i64)
                .collect();
            let index = Tensor::<2, Int>::from_data(TensorData::new(chosen, [n, k]), &device);
            let (upstream, base) = (random([n, o], &device), random([o, n], &device));
            let seed = DropoutSeed::new(9);
            for dropout in [None, Mask::new(0.3, seed)] {
                let run = |op: LowRankOp| {
                    let (x, a, b, weight) = (leaf(&x), leaf(&a), leaf(&b), leaf(&weight));
                    let base = leaf(&base);
                    let y = op(
                        base.clone().transpose(),
                        x.clone().transpose(),
                        a.clone(),
                        b.clone(),
                        (index.clone(), weight.clone()),
                        dropout,
                    );
                    let grads = (y.clone() * upstream.clone()).sum().backward();
                    let (dx, da) = (x.grad(&grads).unwrap(), a.grad(&grads).unwrap());
                    let (db, dw) = (b.grad(&grads).unwrap(), weight.grad(&grads).unwrap());
                    let d_base = base.grad(&grads).unwrap();
                    (y.without_autodiff(), (dx, d_base), da, db, dw)
                };
                let (f, c) = (run(low_rank::add_low_rank), run(low_rank::composed));
                assert_close(f.0, c.0, 1e-5);
                assert_close(f.1.0, c.1.0, 1e-4);
                assert_close(f.1.1, c.1.1, 1e-6);
                assert_close(f.2, c.2, 1e-4);
                assert_close(f.3, c.3, 1e-4);
                assert_close(f.4, c.4, 1e-4);
            }
        }
    }

    #[test]
    fn composed_gradients_agree_with_finite_differences_in_f64() {
        let device = Device::flex();
        device.seed(3);
        let tracked = device.clone().autodiff();
        let values: Vec<f64> = (0..6).map(|i| f64::sin(i as f64 * 1.3)).collect();
        let (a, b) = (
            Tensor::<3>::random(
                [3, 3, 2],
                Distribution::Uniform(-1., 1.),
                (&device, DType::F64),
            ),
            Tensor::<3>::random(
                [3, 2, 2],
                Distribution::Uniform(-1., 1.),
                (&device, DType::F64),
            ),
        );
        let index = Tensor::<2, Int>::from_data([[0, 2], [2, 1]], &device);
        let weight = Tensor::<2>::from_data(
            TensorData::new(vec![0.3f64, 0.7, 0.2, 0.1], [2, 2]),
            (&device, DType::F64),
        );
        let f = |values: &[f64], device: &Device| {
            let x = Tensor::<2>::from_data(
                TensorData::new(values.to_vec(), [2, 3]),
                (device, DType::F64),
            )
            .require_grad();
            let gain = Tensor::<1>::from_data(
                TensorData::new(vec![0.5f64, 1.5, -1.0], [3]),
                (device, DType::F64),
            );
            let normed = rms_norm::composed(x.clone(), gain, 1e-3);
            let chosen = (index.clone(), weight.clone());
            let y = low_rank::composed(
                x.clone().slice([0..2, 0..2]),
                normed,
                a.clone(),
                b.clone(),
                chosen,
                None,
            );
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
