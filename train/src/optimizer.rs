//! AdamW, Burn's with one pass over memory where there is a kernel for it, and its learning rate.

use burn::lr_scheduler::LrSchedulerConfig;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::{ModuleLrScheduler, ModuleLrSchedulerConfig};
use burn::lr_scheduler::sequential::SequentialLrSchedulerConfig;
use burn::module::ParamGroup;
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::prelude::*;
use model::fused::adamw::{Step, adamw, serves};

use crate::config::{RateSchedule, TrainSection};
use crate::error::TrainError;

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

/// The learning rate by optimizer step, of `total`; the routers, and B, may have one of their own.
///
/// # Errors
/// Rates that Burn's schedulers refuse.
pub fn learning_rate(train: &TrainSection, total: usize) -> Result<ModuleLrScheduler, TrainError> {
    let peak = train.learning_rate;
    let mut rates = ModuleLrSchedulerConfig::new(rate_by_step(train, peak, total));
    if train.router_rate_factor != 1.0 {
        // By their names: `attention_router` and `mlp_router`.
        let routers = ParamGroup::from_predicate("router");
        let peak = peak * train.router_rate_factor;
        rates = rates.with_group(routers, rate_by_step(train, peak, total));
    }
    if train.lora_plus_ratio != 1.0 {
        // As peft's `create_loraplus_optimizer`, which counts vectors with B.
        let of_b = ParamGroup::from_any_predicates(vec!["lora_b", "magnitude"]);
        let peak = peak * train.lora_plus_ratio;
        rates = rates.with_group(of_b, rate_by_step(train, peak, total));
    }
    rates
        .init()
        .map_err(|reason| TrainError::config("train.learning_rate", reason))
}

/// The learning rate of each of `total` optimizer steps, for people to see: the routers' own is
/// left out.
pub(crate) fn learning_rates(train: &TrainSection, total: usize) -> Result<Vec<f64>, TrainError> {
    let mut rates = learning_rate(train, total)?;
    Ok((0..total).map(|_| rates.step().base()).collect())
}

/// A linear warm-up to `peak`, then constant, linear or cosine.
fn rate_by_step(train: &TrainSection, peak: f64, total: usize) -> LrSchedulerConfig {
    let warmup = train.warmup_steps.min(total.saturating_sub(1));
    let rest = total - warmup;
    let body: LrSchedulerConfig = match train.schedule {
        RateSchedule::Constant => {
            LrSchedulerConfig::Linear(LinearLrSchedulerConfig::new(peak, peak, rest))
        }
        RateSchedule::Linear => {
            LrSchedulerConfig::Linear(LinearLrSchedulerConfig::new(peak, 0.0, rest))
        }
        RateSchedule::Cosine => {
            LrSchedulerConfig::Cosine(CosineAnnealingLrSchedulerConfig::new(peak, rest))
        }
    };
    let (schedulers, milestones) = match warmup {
        0 => (vec![body], vec![]),
        _ => {
            let first = peak / (warmup + 1) as f64;
            let rise = LinearLrSchedulerConfig::new(first, peak, warmup);
            (vec![LrSchedulerConfig::Linear(rise), body], vec![warmup])
        }
    };
    LrSchedulerConfig::Sequential(SequentialLrSchedulerConfig::new(schedulers, milestones))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Distribution, Tolerance};

    #[test]
    fn what_has_no_kernel_is_left_to_burns_adamw() {
        let device = Device::flex();
        let of = |kind| Tensor::<2>::ones([3, 2], (&device, kind));
        assert!(serves(&of(DType::F32)));
        let (parameter, _) =
            OnePassAdamW::new(0.0).step(0.1, of(DType::F64), of(DType::F64), None::<AdamWState<2>>);
        assert!(!serves(&parameter));
        let expected = Tensor::<2>::full([3, 2], 0.9, (&device, DType::F64));
        parameter
            .into_data()
            .assert_approx_eq::<f64>(&expected.into_data(), Tolerance::absolute(1e-6));
    }

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
