//! Small dense decompositions in f64, by `faer`; the large products stay with Burn.

use burn::prelude::*;
use faer::{Mat, Side};

use crate::error::TrainError;

fn failed(what: &str) -> TrainError {
    TrainError::Training(format!(
        "{what} did not converge: its matrix holds values that are no numbers"
    ))
}

/// Row-major values of a tensor.
pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor
        .into_data()
        .try_into_vec_as()
        .expect("floats convert to f64")
}

/// Values of a line of integers.
pub(crate) fn integers(tensor: Tensor<1, Int>) -> Vec<i64> {
    tensor
        .into_data()
        .try_into_vec_as()
        .expect("integers convert")
}

/// `sum_t w[r, t] v[t]` of each row: means over tokens, where the weights say which.
///
/// Products and a sum instead of a matrix product, which a GPU may round to TF32's ten bits, too
/// few for a FLU of k/E.
///
/// # Shapes
/// - weights: `[rows, tokens]`; values: `[tokens]`; output: `[rows]`
pub(crate) fn weighted_sums(weights: &Tensor<2>, values: Tensor<1>) -> Tensor<1> {
    let products = weights.clone() * values.unsqueeze_dim(0);
    products.sum_dim(1).squeeze_dim(1)
}

/// 1 in the column that each row's index names.
///
/// # Shapes
/// - index: `[rows, 1]`; output: `[rows, columns]`
pub(crate) fn one_hot(index: Tensor<2, Int>, columns: usize) -> Tensor<2> {
    let [rows, _] = index.dims();
    let numbers = Tensor::<1, Int>::arange(0..columns as i64, &index.device()).unsqueeze::<2>();
    index
        .expand([rows, columns])
        .equal(numbers.expand([rows, columns]))
        .float()
}

/// A matrix on the host.
pub(crate) fn matrix(tensor: Tensor<2>) -> Mat<f64> {
    let [rows, columns] = tensor.dims();
    let values = values(tensor);
    Mat::from_fn(rows, columns, |i, j| values[i * columns + j])
}

/// A matrix as a tensor.
pub(crate) fn tensor(matrix: &Mat<f64>, device: &Device) -> Tensor<2> {
    let (rows, columns) = (matrix.nrows(), matrix.ncols());
    let values: Vec<f32> = (0..rows * columns)
        .map(|i| matrix[(i / columns, i % columns)] as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

/// Eigenvalues, falling and not below 0, and eigenvectors (columns) of a symmetric positive
/// semi-definite matrix.
///
/// # Errors
/// Values that are no numbers.
pub(crate) fn eigen(matrix: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), TrainError> {
    let n = matrix.nrows();
    let finite = (0..n).all(|i| (0..n).all(|j| matrix[(i, j)].is_finite()));
    if !finite {
        return Err(failed("an eigendecomposition"));
    }
    let found = matrix
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| failed("an eigendecomposition"))?;
    let (values, vectors) = (found.S().column_vector(), found.U());
    // faer sorts them rising.
    let falling = (0..n).rev().map(|i| values[i].max(0.0)).collect();
    Ok((falling, Mat::from_fn(n, n, |i, j| vectors[(i, n - 1 - j)])))
}

/// An orthonormal basis of the columns' span.
pub(crate) fn orthonormal(matrix: &Mat<f64>) -> Mat<f64> {
    matrix.qr().compute_thin_Q()
}

/// The lower Cholesky factor.
///
/// # Errors
/// A matrix that is not positive definite.
pub(crate) fn cholesky(matrix: &Mat<f64>) -> Result<Mat<f64>, TrainError> {
    let found = matrix
        .llt(Side::Lower)
        .map_err(|_| failed("a Cholesky decomposition"))?;
    Ok(found.L().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decompositions_of_a_known_matrix() {
        let matrix = Mat::from_fn(2, 2, |i, j| [[2.0, 1.0], [1.0, 2.0]][i][j]);
        let (values, vectors) = eigen(&matrix).unwrap();
        assert!((values[0] - 3.0).abs() < 1e-12 && (values[1] - 1.0).abs() < 1e-12);
        assert!((vectors[(0, 0)] - vectors[(1, 0)]).abs() < 1e-12);
        let lower = cholesky(&matrix).unwrap();
        assert!((lower[(1, 0)] - 1.0 / 2f64.sqrt()).abs() < 1e-12 && lower[(0, 1)] == 0.0);
        let basis = orthonormal(&Mat::from_fn(3, 2, |i, j| (i * 2 + j) as f64));
        let dot: f64 = (0..3).map(|i| basis[(i, 0)] * basis[(i, 1)]).sum();
        assert!(dot.abs() < 1e-12 && basis.ncols() == 2);
        assert!(eigen(&Mat::from_fn(2, 2, |_, _| f64::NAN)).is_err());
    }
}
