//! An operation of ours in the graph of any backend, its backward pass written on plain tensors.
//!
//! Burn's own graph keeps what each elementary operation reads again. An operation that enters the
//! graph here keeps what it says, and computes the rest a second time. It needs no kernel, so that
//! it runs wherever Burn runs.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{
        base::Checkpointer,
        strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing},
    },
    grads::Gradients,
    ops::{Backward, Ops},
};
use burn::backend::{
    AutodiffBackend, Backend, BackendTensor, DispatchAutodiffContext, DispatchKindConversion,
    DispatchTensor, DispatchTensorKind, Flex, GradientCheckpointingStrategy,
};
use burn::tensor::{DType, Tensor};

use super::{propagate, tracked};

/// What an operation keeps for its backward pass, tensors outside any graph, and that pass. `N` is
/// the number of inputs that a gradient may reach.
pub(super) trait Kept<const N: usize>: Clone + Debug + Send + 'static {
    /// The gradients to the inputs, given the gradient to the output. `needs` says which of them
    /// are wanted.
    fn backward(self, grad: DispatchTensor, needs: [bool; N]) -> [Option<DispatchTensor>; N];
}

/// The value of a tensor, outside the graph.
pub(super) fn plain<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().without_autodiff()
}

/// A tensor outside the graph in f32, in which operations compute whatever is kept.
pub(super) fn whole<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().cast(DType::F32)
}

/// Enters an operation into the graph on the backend of its output.
macro_rules! on_its_backend {
    ($strategy:ty, $inputs:expr, $output:expr, $kept:expr) => {
        match &$output.kind {
            #[cfg(feature = "cube")]
            DispatchTensorKind::Cube(_) => {
                record::<burn::backend::Cube, $strategy, _, _>($inputs, $output, $kept)
            }
            #[cfg(feature = "ndarray")]
            DispatchTensorKind::NdArray(_) => {
                record::<burn::backend::NdArray, $strategy, _, _>($inputs, $output, $kept)
            }
            DispatchTensorKind::Flex(_) => record::<Flex, $strategy, _, _>($inputs, $output, $kept),
            // Of a graph, `output` knows nothing.
            DispatchTensorKind::Autodiff(_) => unreachable!("an output outside the graph"),
            #[allow(unreachable_patterns)]
            _ => unreachable!("the features of this crate name the backends of the program"),
        }
    };
}

/// Enters an operation into the graph of its inputs. `output` was computed from their plain values.
/// Where no input has a graph, nothing is kept.
#[cfg_attr(
    feature = "ndarray",
    expect(deprecated, reason = "a second opinion, see docs/backends.md")
)]
pub(super) fn enter<const D: usize, const N: usize>(
    inputs: [DispatchTensor; N],
    output: Tensor<D>,
    kept: impl Kept<N>,
) -> Tensor<D> {
    let contexts = inputs.iter().map(|input| input.autodiff);
    let output = output.into_dispatch();
    Tensor::from_dispatch(
        match contexts.fold(DispatchAutodiffContext::Disabled, |a, b| a.merge(b)) {
            DispatchAutodiffContext::Disabled => output,
            DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Disabled) => {
                on_its_backend!(NoCheckpointing, inputs, output, kept)
            }
            DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced) => {
                on_its_backend!(BalancedCheckpointing, inputs, output, kept)
            }
        },
    )
}

fn record<B: Backend, C: CheckpointStrategy, K: Kept<N>, const N: usize>(
    inputs: [DispatchTensor; N],
    output: DispatchTensor,
    kept: K,
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
{
    let nodes = inputs.map(|input| {
        let tracked = match input.autodiff {
            // A constant of this operation.
            DispatchAutodiffContext::Disabled => Autodiff::<B, C>::from_inner(lowered::<B>(input)),
            DispatchAutodiffContext::Enabled(_) => lowered::<Autodiff<B, C>>(input),
        };
        tracked.into_parts().1
    });
    let step = Recorded(PhantomData);
    let output = tracked::<B, C, _, N>(step, nodes, kept, lowered::<B>(output));
    <DispatchTensor as DispatchKindConversion<Autodiff<B, C>>>::from_backend(BackendTensor::Float(
        output,
    ))
}

/// A float tensor on the primitives of its backend.
fn lowered<B: Backend>(tensor: DispatchTensor) -> B::FloatTensorPrimitive
where
    DispatchTensor: DispatchKindConversion<B>,
{
    DispatchTensor::try_into_backend(tensor)
        .unwrap_or_else(|reason| panic!("tensors of one operation are on one backend: {reason}"))
        .float()
}

#[derive(Debug)]
struct Recorded<K>(PhantomData<K>);

impl<B: Backend, K: Kept<N>, const N: usize> Backward<B, N> for Recorded<K>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = K;

    fn backward(self, ops: Ops<K, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        propagate::<B, _, N>(ops, grads, |kept, grad, needs| {
            let grad = DispatchTensor::from_backend(BackendTensor::<B>::Float(grad));
            let found = kept.backward(grad, needs);
            found.map(|grad| grad.map(lowered::<B>))
        });
    }
}
