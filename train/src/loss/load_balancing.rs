//! The load-balancing loss: routers should spread tokens over experts.

use burn::prelude::*;
use model::Routing;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::linear_algebra::one_hot;

/// Which form of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancing {
    /// Eq. 15-16: a token counts for its best expert; per router, averaged. Balanced value 1. In
    /// Eq. 16 the mean probability is that of the top-k router, 0 for an expert that is not kept;
    /// here it is the mean of the softmax over all experts, as in Mixtral's loss.
    #[default]
    Argmax,
    /// Mixtral's and the MixLoRA code's: a token counts for each kept expert, all routers pooled.
    /// Balanced value k.
    TopK,
}

/// `E sum_e F_e P_e` with `F_e` the share of tokens sent to expert e and `P_e` its mean
/// probability. The gradient flows through P only. Padding counts for nothing.
///
/// # Shapes
/// - routing: one entry a router, its rows the flat tokens
/// - token_mean: `[1, tokens]`, the weight of each token in a mean
///
/// # Panics
/// Without a router.
pub fn load_balancing(
    routing: &[Routing],
    token_mean: &Tensor<2>,
    form: LoadBalancing,
) -> Tensor<1> {
    assert!(!routing.is_empty(), "load balancing needs a router");
    let routers = routing.len() as f64;
    let [_, experts] = routing[0].probabilities.dims();
    let mean = |values: Tensor<2>| column_means(token_mean, values);
    match form {
        LoadBalancing::Argmax => {
            let sum = routing
                .iter()
                .map(|router| {
                    let best = router.probabilities.clone().without_autodiff().argmax(1);
                    let share = mean(one_hot(best, experts));
                    (share * mean(router.probabilities.clone())).sum()
                })
                .reduce(|a, b| a + b)
                .expect("at least one router");
            sum * (experts as f64 / routers)
        }
        LoadBalancing::TopK => {
            let mut share: Option<Tensor<2>> = None;
            let mut probability: Option<Tensor<2>> = None;
            for router in routing {
                let counts = mean(top_k_counts(router, experts));
                share = Some(share.map_or(counts.clone(), |s| s + counts));
                let p = mean(router.probabilities.clone());
                probability = Some(probability.map_or(p.clone(), |s| s + p));
            }
            let product = share.expect("a router") * probability.expect("a router");
            product.sum() * (experts as f64 / (routers * routers))
        }
    }
}

/// Share of kept tokens that each expert serves, by router: rows sum to 1.
///
/// # Shapes
/// - output: `[routers, experts]`
pub fn expert_load(routing: &[Routing], token_mean: &Tensor<2>) -> Tensor<2> {
    let rows = routing
        .iter()
        .map(|router| {
            let [_, experts] = router.probabilities.dims();
            let [_, k] = router.experts.dims();
            column_means(token_mean, top_k_counts(router, experts)).div_scalar(k as f64)
        })
        .collect();
    Tensor::cat(rows, 0)
}

/// `[1, experts]`: the weighted mean of each column, without a matrix product; see
/// [`weighted_sums`](crate::linear_algebra::weighted_sums).
fn column_means(token_mean: &Tensor<2>, values: Tensor<2>) -> Tensor<2> {
    (values * token_mean.clone().transpose()).sum_dim(0)
}

/// 1 where a token's kept experts include e: `[tokens, experts]`
fn top_k_counts(router: &Routing, experts: usize) -> Tensor<2> {
    let [_, k] = router.experts.dims();
    (0..k)
        .map(|slot| one_hot(router.experts.clone().narrow(1, slot, 1), experts))
        .reduce(|a, b| a + b)
        .expect("top_k is at least 1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::activation::softmax;

    fn routing(logits: Tensor<2>, k: usize) -> Routing {
        let probabilities = softmax(logits, 1);
        let experts = probabilities.clone().argtopk(k, 1);
        let kept = probabilities.clone().gather(1, experts.clone());
        Routing {
            weights: kept.clone(),
            apart: None,
            kept_probabilities: kept,
            probabilities,
            experts,
        }
    }

    fn value(logits: Vec<[f32; 4]>, k: usize, form: LoadBalancing, weights: &[f32]) -> f32 {
        let device = Device::flex();
        let tokens = logits.len();
        let logits = Tensor::<2>::from_data(TensorData::new(logits.concat(), [tokens, 4]), &device);
        let mean = Tensor::<2>::from_data(TensorData::new(weights.to_vec(), [1, tokens]), &device);
        load_balancing(&[routing(logits, k)], &mean, form).into_scalar()
    }

    /// Token t prefers expert t by so little that the probabilities are uniform.
    fn balanced() -> Vec<[f32; 4]> {
        (0..4)
            .map(|t| std::array::from_fn(|e| if e == t { 1e-4 } else { e as f32 * 1e-6 }))
            .collect()
    }

    #[test]
    fn balanced_routing_gives_1_and_k_and_a_saturated_expert_gives_the_number_of_experts() {
        let quarter = [0.25; 4];
        let argmax = value(balanced(), 2, LoadBalancing::Argmax, &quarter);
        assert!((argmax - 1.0).abs() < 1e-3, "{argmax}");
        let top_k = value(balanced(), 2, LoadBalancing::TopK, &quarter);
        assert!((top_k - 2.0).abs() < 1e-3, "{top_k}");
        let saturated = vec![[40.0, 0.0, 0.0, 0.0]; 4];
        for form in [LoadBalancing::Argmax, LoadBalancing::TopK] {
            assert!((value(saturated.clone(), 1, form, &quarter) - 4.0).abs() < 1e-3);
        }
    }

    #[test]
    fn a_token_of_weight_zero_does_not_count() {
        let logits = vec![
            [1.0, 0.5, 0.0, 0.2],
            [0.0, 0.9, 0.3, 0.1],
            [9.0, 0.0, 0.0, 0.0],
        ];
        let with = value(logits.clone(), 2, LoadBalancing::Argmax, &[0.5, 0.5, 0.0]);
        let without = value(logits[..2].to_vec(), 2, LoadBalancing::Argmax, &[0.5, 0.5]);
        assert!((with - without).abs() < 1e-6);
    }

    #[test]
    fn hand_computed_value_of_equation_15() {
        // Two tokens with p = (.4, .3, .2, .1) and (.1, .2, .3, .4): F = (.5, 0, 0, .5), P = .25
        // each, 4 * (.125 + .125) = 1.
        let ln = |p: [f32; 4]| p.map(f32::ln);
        let logits = vec![ln([0.4, 0.3, 0.2, 0.1]), ln([0.1, 0.2, 0.3, 0.4])];
        let found = value(logits, 2, LoadBalancing::Argmax, &[0.5, 0.5]);
        assert!((found - 1.0).abs() < 1e-5);
        // Both tokens alike: F = (1, 0, 0, 0), P = .4, 4 * .4 = 1.6.
        let logits = vec![ln([0.4, 0.3, 0.2, 0.1]); 2];
        let found = value(logits, 2, LoadBalancing::Argmax, &[0.5, 0.5]);
        assert!((found - 1.6).abs() < 1e-5);
    }
}
