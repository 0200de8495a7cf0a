//! Operations with a hand-written forward and backward pass, each in a file of its own.
//!
//! An operation's file holds, from top to bottom: the public function, which chooses the
//! implementation; the composed form, made of Burn's own operations; the lean form, the same with
//! a backward pass of its own (see `graph.rs`), which runs on every device and type; `Kernels`,
//! the forward and backward pass as a backend implements them; `Extension`, the operation as Burn
//! dispatches it, with and without a graph; the kernels for `flex`; the tests, which compare each
//! implementation with the composed form in value and gradients.
//! Long kernels have a file beside it: `attention/flex.rs`.
//!
//! # A kernel for another backend
//!
//! [`rms_norm`] is the smallest example. For a backend `Cube`:
//! 1. In the operation's file, implement `Kernels` for `Cube`: the forward pass, which also
//!    returns what the backward pass wants to read again, and the backward pass.
//! 2. There, implement `Extension` for `Cube`: the forward pass without a graph. Name the backend
//!    in `#[backend_extension(Flex, Cube, Autodiff)]`. The implementation for `Autodiff` serves
//!    every backend that has `Kernels`, so the graph needs no further code.
//! 3. Here, add a variant to `Implementation`, with the devices and types that it serves. The
//!    compiler then asks each operation for an arm. One without such a kernel names the variant
//!    beside `Lean`.
//! 4. Let the test in the operation's file run on the backend's device.
//!
//! Under Burn's fusion, `Cube` is `Fusion<CubeBackend>`. `Kernels` then goes through the macro as
//! well, with tuples or structs in place of arrays.

use std::cell::Cell;

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::strategy::CheckpointStrategy,
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops, OpsKind},
};
use burn::backend::{Backend, tensor::FloatTensor};
use burn::tensor::{DType, Device, Tensor};

pub mod activation;
pub mod adamw;
pub mod adapted_linear;
pub mod attention;
mod flex;
mod graph;
pub mod linear;
pub mod log_likelihood;
pub mod low_rank;
pub mod rms_norm;
pub mod route;
pub mod swiglu;

/// A form of the operations that runs everywhere, see [`in_form`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Burn's own operations, in whose graph only what has to be kept is kept.
    Lean,
    /// Burn's own operations, each with its own place in the graph.
    Composed,
}

thread_local! {
    static CHOSEN: Cell<Option<Form>> = const { Cell::new(None) };
}

/// Runs `work` with all operations of this thread in one form, instead of the best that the device
/// has: to compare and to measure them.
pub fn in_form<R>(form: Form, work: impl FnOnce() -> R) -> R {
    /// Puts back what was chosen before, after a panic too.
    struct Before(Option<Form>);
    impl Drop for Before {
        fn drop(&mut self) {
            CHOSEN.set(self.0);
        }
    }
    let _before = Before(CHOSEN.replace(Some(form)));
    work()
}

/// Whether operations of this thread need what only their composed form reads.
pub(crate) fn is_composed() -> bool {
    CHOSEN.get() == Some(Form::Composed)
}

/// Whether operations on x are lean: they take and keep what has fewer bits, and compute in f32.
pub(crate) fn keeps_less(x: &Tensor<2>) -> bool {
    Implementation::of(&[x]) == Implementation::Lean
}

/// The implementations that an operation chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Implementation {
    /// Kernels for the CPU: f32 on `flex`.
    Flex,
    /// Burn's own operations, which keep for the backward pass what they say and no more: every
    /// other device.
    Lean,
    /// Burn's own operations, whose graph keeps what each of them reads again. What the others are
    /// compared with.
    Composed,
}

impl Implementation {
    /// The implementation for operands that all have to be served by it.
    fn of<const D: usize>(operands: &[&Tensor<D>]) -> Self {
        let flex = |x: &&Tensor<D>| serves(&x.device()) && x.dtype() == DType::F32;
        match CHOSEN.get() {
            Some(Form::Lean) => Self::Lean,
            Some(Form::Composed) => Self::Composed,
            None if operands.iter().all(flex) => Self::Flex,
            None => Self::Lean,
        }
    }
}

/// Whether a device has kernels for f32. The autodiff context of the device does not matter.
pub fn serves(device: &Device) -> bool {
    // Equality of devices ignores the autodiff context.
    *device == Device::flex()
}

/// Enters an operation into the graph, with what its backward pass reads again. Without a tracked
/// input nothing is kept.
fn tracked<B: Backend, C: CheckpointStrategy, O: Backward<B, N>, const N: usize>(
    backward: O,
    inputs: [NodeGuard; N],
    saved: O::State,
    output: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>> {
    match backward.prepare::<C>(inputs).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(saved, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// Runs an operation's backward pass: takes the gradient of its output, and hands the gradients of
/// its inputs to those that are tracked. `gradients` is also told which inputs are tracked.
fn propagate<B: Backend, S, const N: usize>(
    ops: Ops<S, N>,
    grads: &mut Gradients,
    gradients: impl FnOnce(S, FloatTensor<B>, [bool; N]) -> [Option<FloatTensor<B>>; N],
) {
    let grad = grads.consume::<B>(&ops.node);
    let tracked = ops.parents.each_ref().map(Option::is_some);
    let found = gradients(ops.state, grad, tracked);
    for (parent, found) in ops.parents.into_iter().zip(found) {
        if let (Some(parent), Some(found)) = (parent, found) {
            grads.register::<B>(parent.id, found);
        }
    }
}

/// What the operations' tests share.
#[cfg(test)]
mod testing {
    use burn::tensor::{Device, Distribution, Tensor, Tolerance};

    pub(super) fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
    }

    pub(super) fn assert_close<const D: usize>(a: Tensor<D>, b: Tensor<D>, tolerance: f64) {
        a.into_data()
            .assert_approx_eq::<f32>(&b.into_data(), Tolerance::rel_abs(tolerance, tolerance));
    }

    /// A leaf with the values of `t`. A backward pass consumes the graph, so each path gets leaves
    /// of its own.
    pub(super) fn leaf<const D: usize>(t: &Tensor<D>) -> Tensor<D> {
        Tensor::from_data(t.clone().into_data(), &Device::flex().autodiff()).require_grad()
    }
}
