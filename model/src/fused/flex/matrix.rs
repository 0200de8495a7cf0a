//! Products of f32 matrices over slices, through the `gemm` crate that Burn's `flex` uses too.

use rayon::prelude::*;

/// A matrix over a slice.
#[derive(Clone, Copy)]
pub(in crate::fused) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Mat<'a> {
    /// A matrix that lies row by row, without gaps.
    pub(in crate::fused) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns);
        Self::block(data, rows, columns, columns)
    }

    /// A matrix that lies row by row, `stride` values from one row to the next.
    pub(in crate::fused) fn block(
        data: &'a [f32],
        rows: usize,
        columns: usize,
        stride: usize,
    ) -> Self {
        assert!(rows == 0 || (rows - 1) * stride + columns <= data.len());
        Self {
            data,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// The transposed matrix, over the same values.
    pub(in crate::fused) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// The first `rows` rows.
    pub(in crate::fused) fn top(self, rows: usize) -> Self {
        self.rows(0, rows)
    }

    /// The `rows` rows from `first` on.
    pub(in crate::fused) fn rows(self, first: usize, rows: usize) -> Self {
        assert!(first + rows <= self.rows);
        Self {
            data: &self.data[first * self.row_stride..],
            rows,
            ..self
        }
    }

    /// One row of a matrix that was not transposed.
    pub(in crate::fused) fn row(&self, row: usize) -> &'a [f32] {
        assert_eq!(self.column_stride, 1);
        &self.data[row * self.row_stride..][..self.columns]
    }

    /// The `columns` columns from `first` on.
    fn columns(self, first: usize, columns: usize) -> Self {
        assert!(first + columns <= self.columns);
        Self {
            data: &self.data[first * self.column_stride..],
            columns,
            ..self
        }
    }
}

/// What a product does with the values that are there.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::fused) enum Store {
    /// The values are overwritten.
    Overwrite,
    /// The product is added to the values.
    Accumulate,
}

/// `out (+)= scale a b` on the calling thread; `out` is row-major.
pub(in crate::fused) fn matmul(out: &mut [f32], a: Mat, b: Mat, scale: f32, store: Store) {
    assert!(a.columns == b.rows && out.len() == a.rows * b.columns);
    // SAFETY: the length of `out` is asserted above.
    unsafe { call(out.as_mut_ptr(), b.columns, a, b, scale, store) }
}

/// `a b` on all cores. Each core computes some of the columns, so that it packs only its part of b.
pub(in crate::fused) fn product(a: Mat, b: Mat) -> Vec<f32> {
    /// Columns of one task at least: those of the widest kernel.
    const LEAST: usize = 64;
    let (m, n) = (a.rows, b.columns);
    if m * n == 0 {
        return Vec::new();
    }
    let width = n.div_ceil(rayon::current_num_threads()).max(LEAST);
    let mut out: Vec<f32> = Vec::with_capacity(m * n);
    let start = Start(out.as_mut_ptr());
    (0..n.div_ceil(width)).into_par_iter().for_each(|part| {
        let first = part * width;
        let columns = width.min(n - first);
        // SAFETY: the allocation holds m * n values, and each task writes its own columns of the m
        // rows.
        unsafe {
            call(
                start.at(first),
                n,
                a,
                b.columns(first, columns),
                1.0,
                Store::Overwrite,
            )
        }
    });
    // SAFETY: every column of every row has been written above. Clearing the values first took a
    // twentieth of a step.
    unsafe { out.set_len(m * n) }
    out
}

/// The start of an allocation that tasks share, each writing its own part.
struct Start(*mut f32);

// SAFETY: only `product` uses it, and its tasks write disjoint columns.
unsafe impl Sync for Start {}

impl Start {
    /// The place `offset` values after the start.
    ///
    /// # Safety
    /// `offset` is at most the length of the allocation.
    unsafe fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: the caller keeps the offset inside the allocation.
        unsafe { self.0.add(offset) }
    }
}

/// `out (+)= scale a b` on the calling thread; the rows of `out` begin `stride` values apart.
///
/// # Safety
/// `out` is valid for writes of `a.rows` rows of `b.columns` values, `stride` apart, and nobody
/// else touches these values meanwhile. With [`Store::Accumulate`] they are initialised.
unsafe fn call(out: *mut f32, stride: usize, a: Mat, b: Mat, scale: f32, store: Store) {
    assert_eq!(a.columns, b.rows);
    let sum = store == Store::Accumulate;
    // SAFETY: the constructors of `Mat` check that strides and sizes stay inside the slices. The
    // caller answers for `out`.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            stride as isize,
            sum,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            if sum { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_the_sums_that_define_them() {
        let value = |i: usize| (i * 7 % 13) as f32 - 6.0;
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (17, 33, 200)] {
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let b: Vec<f32> = (0..k * n).map(value).collect();
            let entry =
                |i: usize, j: usize| -> f32 { (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum() };
            let exact: Vec<f32> = (0..m * n).map(|p| entry(p / n, p % n)).collect();
            assert_eq!(product(Mat::new(&a, m, k), Mat::new(&b, k, n)), exact);
            // The transposed matrices, their product transposed, added twice.
            let mut sum = vec![0f32; m * n];
            let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
            matmul(
                &mut sum,
                b.transposed(),
                a.transposed(),
                1.0,
                Store::Overwrite,
            );
            matmul(
                &mut sum,
                b.transposed(),
                a.transposed(),
                2.0,
                Store::Accumulate,
            );
            for (p, sum) in sum.iter().enumerate() {
                assert_eq!(*sum, 3.0 * exact[p % m * n + p / m]);
            }
        }
    }
}
