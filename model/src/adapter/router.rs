//! The top-k router and its decisions.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, IndexingUpdateOp};

use super::{Initializer, MixLoraConfig, MixtureWeights};
use crate::fused::activation::Activation;
use crate::fused::route::route;

/// The router of a mixture: `softmax(x W)` over the experts, in f32, of which the top k are kept.
#[derive(Module, Debug)]
pub struct Router {
    /// W, `[d, experts]`.
    pub weight: Param<Tensor<2>>,
    /// The running mean of the kept mass, `[1, 1]`, where it divides the mixture's weights. No
    /// gradient reaches it; each optimizer step moves it.
    pub running_mass: Option<Param<Tensor<2>>>,
    #[module(skip)]
    top_k: usize,
    #[module(skip)]
    renormalize: bool,
}

/// What a step's mean mass counts in the running mean.
const MASS_RATE: f64 = 0.1;

/// One router's decision for every token of a batch.
///
/// Three things are kept apart on purpose: the functional-level uncertainty (FLU) reads the raw
/// probabilities of the kept experts, the load-balancing loss reads the probabilities of all
/// experts, the mixture uses the weights.
#[derive(Debug, Clone)]
pub struct Routing {
    /// The softmax over all experts, `[tokens, experts]`.
    pub probabilities: Tensor<2>,
    /// The raw probabilities of the kept experts, `[tokens, k]`, highest first; in the experts' own
    /// order where all are kept. Their sum is the token's FLU.
    pub kept_probabilities: Tensor<2>,
    /// The indices of the kept experts, `[tokens, k]`. Ties go to the lower index.
    pub experts: Tensor<2, Int>,
    /// The weights with which the mixture sums the kept experts, `[tokens, k]`.
    pub weights: Tensor<2>,
    /// `kept_probabilities` once more, with a graph that ends at the router's input: FLU where its
    /// loss is to train the routers alone. Filled where [`crate::LlamaInput::routers_apart`] asks.
    pub apart: Option<Tensor<2>>,
}

impl Router {
    /// A router with fresh weights for inputs of width `d`.
    pub fn new(config: &MixLoraConfig, d: usize, init: &mut Initializer) -> Self {
        Self {
            weight: init.normal([d, config.num_experts], config.router_init_std),
            running_mass: (config.mixture_weights == MixtureWeights::NormalizedDelta)
                .then(|| init.even_mass(config)),
            top_k: config.top_k,
            renormalize: config.mixture_weights == MixtureWeights::Renormalized,
        }
    }

    /// The router with its running mean moved towards the mean mass of an optimizer step; unchanged
    /// without one.
    pub(crate) fn with_mass(mut self, mass: f64) -> Self {
        self.running_mass = self.running_mass.map(|running| {
            running.map(|old| (old * (1.0 - MASS_RATE) + mass * MASS_RATE).detach())
        });
        self
    }

    /// Chooses experts for each row. `apart` says whether to fill [`Routing::apart`].
    ///
    /// # Shapes
    /// - x: `[tokens, d]`
    pub(crate) fn forward(&self, x: Activation, apart: bool) -> Routing {
        let Activation { value, origin } = x;
        let value = value.cast(DType::F32);
        let probabilities_of = |value: Tensor<2>| {
            let origin = origin.clone();
            route(Activation { value, origin }, self.weight.val())
        };
        let alone = apart.then(|| probabilities_of(value.clone().detach()));
        let probabilities = probabilities_of(value);
        let experts = top_k(probabilities.clone().without_autodiff(), self.top_k);
        let kept = probabilities.clone().gather(1, experts.clone());
        let weights = match &self.running_mass {
            Some(mass) => kept.clone() / mass.val().detach(),
            None if self.renormalize => kept.clone() / kept.clone().sum_dim(1),
            None => kept.clone(),
        };
        Routing {
            probabilities,
            kept_probabilities: kept,
            apart: alone.map(|all| all.gather(1, experts.clone())),
            experts,
            weights,
        }
    }
}

impl Routing {
    /// The summed raw probability of the kept experts, `[tokens, 1]` (Eq. 11).
    pub fn mass(&self) -> Tensor<2> {
        self.kept_probabilities.clone().sum_dim(1)
    }

    /// [`Self::mass`] as the calibration loss reads it: from [`Self::apart`] where that is filled.
    pub fn functional_mass(&self) -> Tensor<2> {
        let kept = self.apart.as_ref().unwrap_or(&self.kept_probabilities);
        kept.clone().sum_dim(1)
    }
}

/// The indices of the k largest values of each row, largest first, ties to the lower index; all of
/// them in their own order. The indices carry no gradient.
fn top_k(values: Tensor<2>, k: usize) -> Tensor<2, Int> {
    let [rows, columns] = values.dims();
    if k == columns {
        return Tensor::<1, Int>::arange(0..columns as i64, &values.device())
            .unsqueeze::<2>()
            .expand([rows, columns]);
    }
    // Not `argtopk`: its sort is not stable, and k is small.
    let gone = Tensor::full(
        [rows, 1],
        f32::NEG_INFINITY,
        (&values.device(), values.dtype()),
    );
    let (mut left, mut found) = (values, Vec::with_capacity(k));
    while found.len() < k {
        let best = left.clone().argmax(1);
        left = left.scatter(1, best.clone(), gone.clone(), IndexingUpdateOp::Add);
        found.push(best);
    }
    Tensor::cat(found, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_index_however_many_experts() {
        let device = Device::flex();
        for experts in [3, 8, 64, 300] {
            let even = Tensor::<2>::full([5, experts], 1.0 / experts as f32, &device);
            let found: Vec<i64> = top_k(even.clone(), 2)
                .into_data()
                .try_into_vec_as()
                .unwrap();
            assert_eq!(found, [0, 1].repeat(5));
            let last = Tensor::<2>::from_data([[0.5]], &device).expand([5, 1]);
            let one = Tensor::cat(vec![even.narrow(1, 0, experts - 1), last], 1);
            let found: Vec<i64> = top_k(one, 2).into_data().try_into_vec_as().unwrap();
            assert_eq!(found, [experts as i64 - 1, 0].repeat(5));
        }
    }
}
