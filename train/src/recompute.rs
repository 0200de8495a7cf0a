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
    let last = llama.layers() - 1;
    let mut kept = Kept::of(llama, input);
    // The graph's end: the last layer, and from all routers' probabilities to the loss.
    let blocks = llama.blocks(input);
    let leaves: Vec<Routing> = kept.decisions.iter().map(leaf).collect();
    let mut routing = leaves.clone();
    let x = tracked(kept.inputs.pop().expect("the last layer's input"));
    let hidden = blocks.forward(last, x.clone(), &mut routing);
    let output = llama.output(hidden, routing, input);
    let (loss, facts) = objective(output);
    let gradients = loss.backward();
    let mut upstream = x.grad(&gradients);
    let mut at_routers: Vec<AtRouter> = leaves
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
        let x = tracked(kept.inputs.pop().expect("each layer's input"));
        let mut routing = Vec::new();
        let y = blocks.forward(place, x.clone(), &mut routing);
        let own = at_routers.split_off(kept.first_decision(place));
        let Some(sum) = surrogate((y, upstream.take()), routing, own) else {
            continue;
        };
        let gradients = sum.backward();
        upstream = x.grad(&gradients);
        found.accumulate(llama, GradientsParams::from_grads(gradients, llama));
    }
    Recomputed {
        facts,
        gradients: found.grads(),
    }
}

/// What the forward pass keeps: enough to run any layer again.
struct Kept {
    /// Input of every layer, in order.
    inputs: Vec<Tensor<2>>,
    /// What each router below the last layer decided.
    decisions: Vec<Routing>,
    /// The layer that made each decision.
    layers: Vec<usize>,
}

impl Kept {
    /// Runs all layers but the last, without a graph.
    fn of(llama: &Llama, input: &LlamaInput) -> Self {
        let frozen = llama.valid();
        let blocks = frozen.blocks(input);
        let mut kept = Self {
            inputs: vec![blocks.embedded().without_autodiff()],
            decisions: Vec::new(),
            layers: Vec::new(),
        };
        for place in 0..llama.layers() - 1 {
            let x = kept.inputs[place].clone();
            let x = blocks.forward(place, x, &mut kept.decisions);
            kept.inputs.push(x.without_autodiff());
            kept.layers.resize(kept.decisions.len(), place);
        }
        kept
    }

    /// How many decisions were made below a layer.
    fn first_decision(&self, place: usize) -> usize {
        self.layers.partition_point(|layer| *layer < place)
    }
}

/// The gradients that arrive at a router's probabilities, and at those apart.
type AtRouter = [Option<Tensor<2>>; 2];

/// `sum(output * gradient)` over all outputs of a layer: its gradients are those of the loss.
fn surrogate(
    output: (Tensor<2>, Option<Tensor<2>>),
    routing: Vec<Routing>,
    at_routers: Vec<AtRouter>,
) -> Option<Tensor<1>> {
    let terms = routing.into_iter().zip(at_routers);
    let terms = terms.flat_map(|(routing, [gradient, at_apart])| {
        let apart = routing.apart.map(|apart| (apart, at_apart));
        std::iter::once((routing.probabilities, gradient)).chain(apart)
    });
    terms
        .chain([output])
        .filter_map(|(value, gradient)| Some((value * gradient?).sum()))
        .reduce(|a, b| a + b)
}

/// A tensor at which a graph begins.
fn tracked(tensor: Tensor<2>) -> Tensor<2> {
    tensor.autodiff().require_grad()
}

/// A decision whose gradients all arrive at its probabilities, and at those apart.
fn leaf(routing: &Routing) -> Routing {
    let probabilities = tracked(routing.probabilities.clone().without_autodiff());
    Routing {
        kept_probabilities: probabilities.clone().gather(1, routing.experts.clone()),
        experts: routing.experts.clone(),
        weights: routing.weights.clone(),
        apart: routing.apart.clone().map(|t| tracked(t.without_autodiff())),
        probabilities,
    }
}
