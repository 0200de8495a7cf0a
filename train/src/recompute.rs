//! Block recomputation (gradient checkpointing, Chen et al. 2016): only the input of each decoder
//! layer is kept; the backward pass runs each layer again, with a graph of its own. Exact: the same
//! operations on the same values.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::prelude::*;
use model::{Llama, LlamaInput, LlamaOutput, Routing};

/// The gradients of a pass, and what the caller kept of its end.
pub struct Recomputed<T> {
    /// What `objective` returned beside the loss.
    pub facts: T,
    /// Gradients by parameter.
    pub gradients: GradientsParams,
}

/// The gradients of `objective` with the memory of one layer's graph, at the price of one more
/// forward pass. `llama` is tracked; `objective` returns the loss `[1]` and what else the caller
/// wants to keep of the graph's end.
pub fn gradients<T>(
    llama: &Llama,
    input: &LlamaInput,
    objective: impl FnOnce(LlamaOutput) -> (Tensor<1>, T),
) -> Recomputed<T> {
    let device = input.tokens.device();
    let last = llama.layers() - 1;
    let frozen = llama.valid();
    let blocks = frozen.blocks(input);
    let mut inputs = vec![blocks.embedded().without_autodiff()];
    let mut decisions: Vec<Routing> = Vec::new();
    // The layer that made each decision.
    let mut owners = Vec::new();
    for place in 0..last {
        reseed(&device, input, place);
        let x = inputs[place].clone();
        let x = blocks.forward(place, x, &mut decisions);
        inputs.push(x.without_autodiff());
        owners.resize(decisions.len(), place);
    }
    // The graph's end: the last layer, and from all routers' probabilities to the loss.
    let tracked = |t: Tensor<2>| t.autodiff().require_grad();
    let blocks = llama.blocks(input);
    let mut routing: Vec<Routing> = decisions.iter().map(|r| leaf(r, tracked)).collect();
    let leaves = routing.clone();
    let x = tracked(inputs.pop().expect("the last layer's input"));
    reseed(&device, input, last);
    let hidden = blocks.forward(last, x.clone(), &mut routing);
    let output = llama.output(hidden, routing, input);
    let (loss, facts) = objective(output);
    let gradients = loss.backward();
    let mut upstream = x.grad(&gradients);
    let mut at_routers: Vec<[Option<Tensor<2>>; 2]> = leaves
        .iter()
        .map(|routing| {
            let apart = routing.apart.as_ref();
            let apart = apart.and_then(|apart| apart.grad(&gradients));
            [routing.probabilities.grad(&gradients), apart]
        })
        .collect();
    let mut found = GradientsAccumulator::new();
    found.accumulate(llama, GradientsParams::from_grads(gradients, llama));
    // Layer by layer back, each with the gradients that arrive at its outputs.
    for place in (0..last).rev() {
        let x = tracked(inputs.pop().expect("each layer's input"));
        let mut routing = Vec::new();
        reseed(&device, input, place);
        let y = blocks.forward(place, x.clone(), &mut routing);
        let own = at_routers.split_off(owners.partition_point(|owner| *owner < place));
        let terms = routing.into_iter().zip(own);
        let terms = terms.flat_map(|(routing, [gradient, at_apart])| {
            let apart = routing.apart.map(|apart| (apart, at_apart));
            std::iter::once((routing.probabilities, gradient)).chain(apart)
        });
        let total = terms
            .chain([(y, upstream.take())])
            .filter_map(|(value, gradient)| Some((value * gradient?).sum()))
            .reduce(|a, b| a + b);
        let Some(total) = total else { continue };
        let gradients = total.backward();
        upstream = x.grad(&gradients);
        found.accumulate(llama, GradientsParams::from_grads(gradients, llama));
    }
    Recomputed {
        facts,
        gradients: found.grads(),
    }
}

/// Seeds a layer's dropout. Off flex, dropout draws from the device's generator: each layer must
/// draw the same masks both times.
fn reseed(device: &Device, input: &LlamaInput, place: usize) {
    if let Some(seed) = input.dropout.at(place as u64).value() {
        device.clone().without_autodiff().seed(seed);
    }
}

/// A decision whose gradients all arrive at its probabilities, and at those apart.
fn leaf(routing: &Routing, tracked: impl Fn(Tensor<2>) -> Tensor<2>) -> Routing {
    let probabilities = tracked(routing.probabilities.clone().without_autodiff());
    Routing {
        kept_probabilities: probabilities.clone().gather(1, routing.experts.clone()),
        experts: routing.experts.clone(),
        weights: routing.weights.clone(),
        apart: routing.apart.clone().map(|t| tracked(t.without_autodiff())),
        probabilities,
    }
}
