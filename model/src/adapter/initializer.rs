//! Initial parameters of an adapter.

use burn::module::{Param, ParamId};
use burn::prelude::*;
use burn::tensor::DType;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::config::{InitialWeights, MixLoraConfig, Shape};
use super::pissa;
use crate::error::ModelError;

/// Draws initial parameters from one seed. It draws on the host, so that every backend starts from
/// the same numbers.
#[derive(Debug)]
pub struct Initializer {
    rng: ChaCha8Rng,
    device: Device,
    /// Parameters drawn so far.
    drawn: u64,
    /// Whether the values are about to be replaced, so that zeros do.
    blank: bool,
}

impl Initializer {
    /// A source of initial parameters on `device`, drawn from `seed`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            device: device.clone(),
            drawn: 0,
            blank: false,
        }
    }

    /// A source of parameters of the right shapes, whose values are about to be replaced.
    pub fn blank(device: &Device) -> Self {
        Self {
            blank: true,
            ..Self::new(0, device)
        }
    }

    /// An initial A as PEFT has it, Kaiming uniform with a = sqrt(5): `U(-1, 1) / sqrt(fan_in)`.
    pub fn lora_a<const D: usize>(&mut self, shape: [usize; D], fan_in: usize) -> Param<Tensor<D>> {
        let bound = 1.0 / (fan_in as f32).sqrt();
        self.draw(shape, |rng| rng.random_range(-bound..=bound))
    }

    /// An initial B: zeros, so that a fresh adapter changes nothing.
    pub fn lora_b<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.draw(shape, |_| 0.0)
    }

    /// An initial G as BLoB has it: `U(eps / sqrt(2), eps)`.
    pub fn posterior_g(&mut self, shape: [usize; 2], eps: f64) -> Param<Tensor<2>> {
        let (low, high) = ((eps / std::f64::consts::SQRT_2) as f32, eps as f32);
        self.draw(shape, |rng| rng.random_range(low..=high))
    }

    /// Normal draws, `N(0, std^2)`.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f64) -> Param<Tensor<D>> {
        self.draw(shape, |rng| normal(rng, std))
    }

    /// DoRA's first magnitudes: the norm of each output's frozen weights.
    ///
    /// # Shapes
    /// - weight: `[d_out, d_in]`, output: `[d_out]`
    pub(crate) fn magnitudes(&mut self, weight: Tensor<2>) -> Param<Tensor<1>> {
        let [d_out, _] = weight.dims();
        if self.blank {
            return self.draw([d_out], |_| 0.0);
        }
        let norms = weight.cast(DType::F32).square().sum_dim(1).sqrt();
        let mut norms = norms
            .into_data()
            .iter::<f32>()
            .collect::<Vec<_>>()
            .into_iter();
        self.draw([d_out], |_| norms.next().unwrap_or_default())
    }

    /// PiSSA's first A and B of a frozen matrix, and the same once more, never to be trained: what
    /// they take out of the matrix.
    ///
    /// # Shapes
    /// - weight: `[d_out, d_in]`
    ///
    /// # Errors
    /// A rank that the matrix does not have, or values that are no numbers.
    pub(crate) fn pissa(
        &mut self,
        weight: Tensor<2>,
        shape: Shape,
        start: InitialWeights,
    ) -> Result<[Param<Tensor<2>>; 4], ModelError> {
        let [d_out, d_in] = weight.dims();
        let shapes = [[d_in, shape.rank], [shape.rank, d_out]];
        let factors = match self.blank {
            true => shapes.map(|[rows, columns]| vec![0.0; rows * columns]),
            false => pissa::factors(weight, shape, start, || normal(&mut self.rng, 1.0))?,
        };
        let mut next = |place: usize| {
            let mut values = factors[place].iter().copied();
            self.draw(shapes[place], |_| values.next().unwrap_or_default())
        };
        Ok([
            next(0),
            next(1),
            next(0).set_require_grad(false),
            next(1).set_require_grad(false),
        ])
    }

    /// The kept mass of a router without preference, k / E: where a running mean begins.
    pub(super) fn even_mass(&mut self, config: &MixLoraConfig) -> Param<Tensor<2>> {
        let mass = config.top_k as f32 / config.num_experts as f32;
        self.draw([1, 1], |_| mass).set_require_grad(false)
    }

    fn draw<const D: usize>(
        &mut self,
        shape: [usize; D],
        mut next: impl FnMut(&mut ChaCha8Rng) -> f32,
    ) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        let values: Vec<f32> = match self.blank {
            true => vec![0.0; count],
            false => (0..count).map(|_| next(&mut self.rng)).collect(),
        };
        let tensor = Tensor::from_data(TensorData::new(values, shape), &self.device);
        let mut param = Param::from_tensor(tensor);
        // Burn numbers parameters at random and saves the numbers. Counted ones make the same
        // bytes of the same training.
        self.drawn += 1;
        param.id = ParamId::from(self.drawn);
        param
    }
}

/// A normal draw, `N(0, std^2)`, by Box and Muller.
fn normal(rng: &mut ChaCha8Rng, std: f64) -> f32 {
    let (radius, turn): (f64, f64) = (rng.random(), rng.random());
    let radius = (-2.0 * (1.0 - radius).ln()).sqrt();
    (std * radius * (2.0 * std::f64::consts::PI * turn).cos()) as f32
}
