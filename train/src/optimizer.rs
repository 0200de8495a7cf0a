//! AdamW: Burn's, with one pass over memory where there is a kernel for it.

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::prelude::*;
use model::fused::adamw::{Step, adamw, serves};

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// AdamW with the usual constants (A.6 of the paper), its state Burn's own.
#[derive(Clone)]
pub struct OnePassAdamW {
    burn: AdamW,
    weight_decay: f32,
}

impl OnePassAdamW {
    /// With decoupled weight decay.
    pub fn new(weight_decay: f64) -> Self {
        let weight_decay = weight_decay as f32;
        Self {
            burn: AdamWConfig::new()
                .with_beta_1(BETA_1)
                .with_beta_2(BETA_2)
                .with_epsilon(EPSILON)
                .with_weight_decay(weight_decay)
                .build(),
            weight_decay,
        }
    }
}

impl Optimizer for OnePassAdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        if !serves(&parameter) || !serves(&gradient) {
            return self.burn.step(rate, parameter, gradient, state);
        }
        let (time, moments) = match state {
            Some(AdamWState { momentum }) => {
                (momentum.time + 1, [momentum.moment_1, momentum.moment_2])
            }
            None => (1, [gradient.zeros_like(), gradient.zeros_like()]),
        };
        let [moment_1, moment_2] = moments;
        let step = Step {
            rate,
            beta_1: BETA_1,
            beta_2: BETA_2,
            epsilon: EPSILON,
            weight_decay: self.weight_decay,
            time,
        };
        let [parameter, moment_1, moment_2] =
            adamw([parameter, moment_1, moment_2], gradient, step);
        let momentum = AdaptiveMomentumState {
            time,
            moment_1,
            moment_2,
            max_moment_2: None,
        };
        (parameter, Some(AdamWState { momentum }))
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamW::to_device(state, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    #[test]
    fn one_pass_equals_burns_adamw_over_several_steps() {
        let device = Device::flex();
        device.seed(1);
        let ours = OnePassAdamW::new(0.05);
        let draw = || Tensor::<2>::random([37, 19], Distribution::Uniform(-1.0, 1.0), &device);
        let start = draw();
        // The first is held elsewhere as well: it must not change.
        let (mut a, mut b) = (start.clone(), start.clone());
        let before = start.to_data();
        let (mut of_a, mut of_b) = (None, None);
        for _ in 0..5 {
            let gradient = draw();
            // A transposed view, as a gradient may be.
            let view = gradient.clone().transpose().into_data();
            let view = Tensor::<2>::from_data(view, &device).transpose();
            (a, of_a) = ours.step(0.01, a, view, of_a);
            (b, of_b) = ours.burn.step(0.01, b, gradient, of_b);
        }
        assert_eq!(start.to_data(), before);
        let close = |a: Tensor<2>, b: Tensor<2>| {
            let tolerance = Tolerance::rel_abs(1e-5, 1e-6);
            a.into_data()
                .assert_approx_eq::<f32>(&b.into_data(), tolerance);
        };
        let (of_a, of_b) = (of_a.unwrap().momentum, of_b.unwrap().momentum);
        close(a, b);
        close(of_a.moment_1, of_b.moment_1);
        close(of_a.moment_2, of_b.moment_2);
        assert_eq!(of_a.time, of_b.time);
    }
}
