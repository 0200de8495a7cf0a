//! The norm of an optimizer step's whole gradient: clipped by it, watched by it, and refused where
//! it is no number.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
use model::fused::serves;

use crate::linear_algebra::values;

/// `[parameters]`: the sum of squares of each parameter's gradient, still on the device. None
/// where no parameter has one.
pub fn squares<M: Module>(module: &M, gradients: &GradientsParams) -> Option<Tensor<1>> {
    struct Squares<'a>(&'a GradientsParams, Vec<Tensor<1>>);
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                self.1.push(gradient.square().sum());
            }
        }
    }
    let mut found = Squares(gradients, Vec::new());
    module.visit(&mut found);
    (!found.1.is_empty()).then(|| Tensor::cat(found.1, 0))
}

/// The norm of the whole gradient. Waits for the device.
pub fn norm(squares: Tensor<1>) -> f64 {
    values(squares).iter().sum::<f64>().sqrt()
}

/// Scales all gradients so that their joint norm, given by the parts' `squares`, is at most `limit`
/// (torch's `clip_grad_norm_`); Burn's own clipping is per parameter. Waits for no device but the
/// processor, where gradients that are small enough are left as they are.
pub fn clip<M: Module>(
    module: &M,
    gradients: &mut GradientsParams,
    squares: Tensor<1>,
    limit: f64,
) {
    struct Scale<'a>(&'a mut GradientsParams, Tensor<1>);
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                let factor = self.1.clone().cast(gradient.dtype()).reshape([1; D]);
                self.0.register(param.id, gradient * factor);
            }
        }
    }
    if serves(&squares.device()) && norm(squares.clone()) <= limit {
        return;
    }
    // The smallest number keeps a gradient of zeros from being divided by zero.
    let norm = squares.sum().sqrt().clamp_min(f64::from(f32::MIN_POSITIVE));
    let factor = (norm.recip() * limit).clamp_max(1.0);
    module.visit(&mut Scale(gradients, factor));
}

/// The squares of each optimizer step's gradient until the metrics' thread reads them, so that the
/// training does not wait for the device. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Norms(Arc<Mutex<Vec<(usize, Tensor<1>)>>>);

impl Norms {
    /// Keeps a step's squares.
    pub(crate) fn put(&self, step: usize, squares: Tensor<1>) {
        self.all().push((step, squares));
    }

    /// Takes out the norm of a step, and drops those of earlier ones.
    pub(crate) fn take(&self, step: usize) -> Option<f64> {
        let found = {
            let mut all = self.all();
            let found = all.iter().position(|(known, _)| *known == step);
            let found = found.map(|place| all.swap_remove(place).1);
            all.retain(|(known, _)| *known > step);
            found
        };
        found.map(norm)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Tensor<1>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};

    /// Gradients 3 and 4 of weight and bias.
    fn gradients() -> (Linear, GradientsParams) {
        let device = Device::flex().autodiff();
        let layer = LinearConfig::new(1, 1).init(&device);
        let bias = layer.bias.clone().unwrap().val();
        let loss = (layer.weight.val() * 3.0).sum() + (bias * 4.0).sum();
        let found = GradientsParams::from_grads(loss.backward(), &layer);
        (layer, found)
    }

    #[test]
    fn the_whole_gradient_is_scaled_to_the_limit_and_no_smaller_one() {
        let (layer, mut found) = gradients();
        let before = squares(&layer, &found).unwrap();
        assert!((norm(before.clone()) - 5.0).abs() < 1e-6, "{before}");
        clip(&layer, &mut found, before.clone(), 10.0);
        assert!((norm(squares(&layer, &found).unwrap()) - 5.0).abs() < 1e-6);
        clip(&layer, &mut found, before, 1.0);
        assert!((norm(squares(&layer, &found).unwrap()) - 1.0).abs() < 1e-6);
        assert!(squares(&layer, &GradientsParams::new()).is_none());
    }

    #[test]
    fn each_step_gives_its_own_norm_once() {
        let norms = Norms::default();
        for step in [1, 2, 3] {
            let square = Tensor::from_data([(step * step) as f32], &Device::flex());
            norms.put(step, square);
        }
        assert_eq!(norms.take(2), Some(2.0));
        assert_eq!((norms.take(1), norms.take(2)), (None, None));
        assert_eq!(norms.take(3), Some(3.0));
    }
}
