//! Operations with a hand-written forward and backward on the CPU backend `flex`, each beside its composed form.
//!
//! The kernels exist for f32 on flex. Every other device or type runs the composed form, which is also what the tests compare
//! with. One file holds one operation: the public function, the composed form, the two kernels.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, ExtensionType, Flex, backend_extension, flex::FlexTensor};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

mod exponential;
pub mod log_likelihood;
pub mod low_rank;
pub mod rms_norm;
pub mod swiglu;

/// Inputs of the grouped low-rank product, see [`low_rank::grouped_low_rank`].
#[derive(ExtensionType, Clone, Debug)]
pub struct LowRank<B: Backend> {
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
    /// Returns y `[n, o]` and the unweighted hidden rows `x A` `[n k, r]`, in the order of the index.
    fn low_rank_forward(inputs: &LowRank<Self>) -> [FloatTensor<Self>; 2];
    /// Gradients to x, a, b and weight.
    fn low_rank_backward(
        inputs: LowRank<Self>,
        hidden: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        needs: [bool; 4],
    ) -> [Option<FloatTensor<Self>>; 4];
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
    /// See [`low_rank::grouped_low_rank`].
    fn grouped_low_rank(#[extension_type] inputs: LowRank<Self>) -> FloatTensor<Self>;
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

    fn grouped_low_rank(inputs: LowRank<Self>) -> FloatTensor<Self> {
        let [y, _] = Self::low_rank_forward(&inputs);
        y
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
        for (parent, grad) in ops.parents.into_iter().zip(found) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
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

impl<B: Kernels> Backward<B, 4> for LowRankBackward {
    /// The inputs and the hidden rows: handles, not copies.
    type State = (LowRank<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let needs = ops.parents.each_ref().map(Option::is_some);
        let grad = grads.consume::<B>(&ops.node);
        let (inputs, hidden) = ops.state;
        let found = B::low_rank_backward(inputs, hidden, grad, needs);
        for (parent, grad) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<B>(parent.id, grad);
            }
        }
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

    fn grouped_low_rank(inputs: LowRank<Self>) -> FloatTensor<Self> {
        let (x, x_node) = inputs.x.into_parts();
        let (a, a_node) = inputs.a.into_parts();
        let (b, b_node) = inputs.b.into_parts();
        let (weight, weight_node) = inputs.weight.into_parts();
        let inputs = LowRank::<B> {
            x,
            a,
            b,
            weight,
            index: inputs.index,
        };
        let [y, hidden] = B::low_rank_forward(&inputs);
        match LowRankBackward
            .prepare::<C>([x_node, a_node, b_node, weight_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((inputs, hidden), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// The kernels serve f32 on flex; device equality ignores the autodiff context.
fn has_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    x.device() == Device::flex() && x.dtype() == DType::F32
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

    fn low_rank_forward(inputs: &LowRank<Self>) -> [FlexTensor; 2] {
        low_rank::forward(inputs)
    }

    fn low_rank_backward(
        inputs: LowRank<Self>,
        hidden: FlexTensor,
        grad: FlexTensor,
        needs: [bool; 4],
    ) -> [Option<FlexTensor>; 4] {
        low_rank::backward(inputs, hidden, grad, needs)
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

/// `to += from`
fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

#[cfg(test)]
mod tests {
    use super::*;
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

    type LowRankOp = fn(Tensor<2>, Tensor<3>, Tensor<3>, Tensor<2, Int>, Tensor<2>) -> Tensor<2>;

    #[test]
    fn grouped_low_rank_equals_its_composed_form_in_value_and_gradients() {
        let device = Device::flex();
        device.seed(2);
        // One row, an expert nobody chose (index below 3 of 4), k = 1 and k = E, odd sizes, a strided x.
        for (n, d, r, o, experts, k) in [
            (1, 5, 3, 7, 4, 1),
            (131, 37, 4, 19, 4, 2),
            (70, 32, 16, 33, 3, 3),
        ] {
            let x = random([d, n], &device);
            let (a, b) = (
                random([experts, d, r], &device),
                random([experts, r, o], &device),
            );
            let weight = random([n, k], &device);
            let chosen: Vec<i64> = (0..n * k)
                .map(|i| ((i / k * 7 + i % k) % experts.clamp(k, 3)) as i64)
                .collect();
            let index = Tensor::<2, Int>::from_data(TensorData::new(chosen, [n, k]), &device);
            let upstream = random([n, o], &device);
            let run = |op: LowRankOp| {
                let (x, a, b, weight) = (leaf(&x), leaf(&a), leaf(&b), leaf(&weight));
                let y = op(
                    x.clone().transpose(),
                    a.clone(),
                    b.clone(),
                    index.clone(),
                    weight.clone(),
                );
                let grads = (y.clone() * upstream.clone()).sum().backward();
                let (dx, da) = (x.grad(&grads).unwrap(), a.grad(&grads).unwrap());
                let (db, dw) = (b.grad(&grads).unwrap(), weight.grad(&grads).unwrap());
                (y.without_autodiff(), dx, da, db, dw)
            };
            let (f, c) = (run(low_rank::grouped_low_rank), run(low_rank::composed));
            assert_close(f.0, c.0, 1e-5);
            assert_close(f.1, c.1, 1e-4);
            assert_close(f.2, c.2, 1e-4);
            assert_close(f.3, c.3, 1e-4);
            assert_close(f.4, c.4, 1e-4);
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
            let y = low_rank::composed(normed, a.clone(), b.clone(), index.clone(), weight.clone());
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
