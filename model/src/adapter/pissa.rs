//! PiSSA (Meng et al. 2024): A and B begin at the largest singular vectors of the frozen matrix.
//!
//! With `W = U S V^T` and the scaling s, `A = V_r sqrt(S_r / s)`, `B = sqrt(S_r / s) U_r^T`. What
//! is frozen is `W - s (A B)^T`, so that a fresh adapter changes nothing.

use burn::prelude::*;
use faer::Mat;

use super::config::{InitialWeights, Shape};
use crate::error::ModelError;

/// A, `[d_in, r]`, and B, `[r, d_out]`, row after row.
pub(super) type Factors = [Vec<f32>; 2];

/// The first factors of a frozen matrix; `normal` draws from a standard normal distribution, for
/// the randomised decomposition.
///
/// # Shapes
/// - weight: `[d_out, d_in]`
///
/// # Errors
/// A rank that the matrix does not have, or values that are no numbers.
pub(super) fn factors(
    weight: Tensor<2>,
    shape: Shape,
    start: InitialWeights,
    normal: impl FnMut() -> f32,
) -> Result<Factors, ModelError> {
    let [d_out, d_in] = weight.dims();
    let refuse = |reason: String| Err(ModelError::setting("adapter.init_lora_weights", reason));
    if shape.rank > d_out.min(d_in) {
        return refuse(format!(
            "PiSSA takes rank singular vectors, {} of a matrix of {d_out} x {d_in}: set a smaller \
             adapter.rank",
            shape.rank
        ));
    }
    let values: Vec<f32> = weight.into_data().iter::<f32>().collect();
    if values.iter().any(|value| !value.is_finite()) {
        return refuse("the frozen matrix holds values that are no numbers".into());
    }
    let w = Mat::from_fn(d_out, d_in, |o, i| values[o * d_in + i]);
    let found = match start {
        InitialWeights::PissaIterations(n) => randomised(&w, shape.rank, n, normal),
        _ => decomposed(&w),
    };
    let Some((u, s, v)) = found else {
        return refuse("the singular values of a frozen matrix were not found".into());
    };
    let root = |r: usize| (s[r] / shape.scaling as f32).sqrt();
    let rank = shape.rank;
    let a = (0..d_in * rank).map(|n| v[(n / rank, n % rank)] * root(n % rank));
    let b = (0..rank * d_out).map(|n| u[(n % d_out, n / d_out)] * root(n / d_out));
    Ok([a.collect(), b.collect()])
}

/// Left vectors, singular values, falling, and right vectors.
type Decomposition = (Mat<f32>, Vec<f32>, Mat<f32>);

fn decomposed(w: &Mat<f32>) -> Option<Decomposition> {
    let found = w.thin_svd().ok()?;
    let s = found.S().column_vector();
    let s = (0..s.nrows()).map(|i| s[i]).collect();
    Some((found.U().to_owned(), s, found.V().to_owned()))
}

/// The decomposition on the span of `rank` random directions after so many subspace iterations
/// (Halko et al. 2009, algorithm 4.4), as torch's `svd_lowrank`.
fn randomised(
    w: &Mat<f32>,
    rank: usize,
    iterations: u32,
    mut normal: impl FnMut() -> f32,
) -> Option<Decomposition> {
    let basis = |m: Mat<f32>| m.qr().compute_thin_Q();
    let mut q = basis(w * Mat::from_fn(w.ncols(), rank, |_, _| normal()));
    for _ in 0..iterations {
        q = basis(w * basis(w.transpose() * &q));
    }
    let (u, s, v) = decomposed(&(q.transpose() * w))?;
    Some((q * u, s, v))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix with falling singular values.
    fn weight(d_out: usize, d_in: usize) -> Tensor<2> {
        let value = |o: usize, i: usize| -> f32 {
            let wave = |k: usize| {
                let (o, i, k) = (o as f32, i as f32, k as f32 + 1.0);
                (o * k * 0.37).sin() * (i * k * 0.23 + 0.5).cos() * 4f32.powf(-k)
            };
            (0..6).map(wave).sum()
        };
        let values = (0..d_out * d_in).map(|n| value(n / d_in, n % d_in));
        let values: Vec<f32> = values.collect();
        Tensor::from_data(TensorData::new(values, [d_out, d_in]), &Device::flex())
    }

    #[test]
    fn the_product_is_the_best_of_its_rank_exact_or_randomised() {
        for (d_out, d_in) in [(12, 7), (7, 12)] {
            let shape = Shape {
                rank: 3,
                scaling: 0.5,
            };
            let mut seed = 1u32;
            let product = |start, seed: &mut u32| {
                let normal = || {
                    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    f64::from(*seed) as f32 / u32::MAX as f32 - 0.5
                };
                let [a, b] = factors(weight(d_out, d_in), shape, start, normal).unwrap();
                let device = Device::flex();
                let a = Tensor::<2>::from_data(TensorData::new(a, [d_in, 3]), &device);
                let b = Tensor::<2>::from_data(TensorData::new(b, [3, d_out]), &device);
                (a.matmul(b) * shape.scaling).transpose()
            };
            let exact = product(InitialWeights::Pissa, &mut seed);
            let random = product(InitialWeights::PissaIterations(8), &mut seed);
            let norm = |t: Tensor<2>| t.square().sum().sqrt().into_scalar::<f32>();
            let rest = norm(weight(d_out, d_in) - exact.clone());
            let w = weight(d_out, d_in);
            let values: Vec<f32> = w.into_data().iter::<f32>().collect();
            let w = Mat::from_fn(d_out, d_in, |o, i| values[o * d_in + i]);
            let (_, s, _) = decomposed(&w).unwrap();
            // Eckart and Young: what is left is as large as the other singular values.
            let others = s[3..].iter().map(|s| s * s).sum::<f32>().sqrt();
            assert!((rest - others).abs() < 1e-4 * s[0], "{rest} {others}");
            assert!(norm(exact - random) < 1e-3 * s[0]);
        }
    }

    #[test]
    fn a_rank_beyond_the_matrix_is_refused() {
        let shape = Shape {
            rank: 8,
            scaling: 1.0,
        };
        let error = factors(weight(12, 7), shape, InitialWeights::Pissa, || 0.0).unwrap_err();
        assert!(error.to_string().contains("adapter.rank"), "{error}");
    }
}
