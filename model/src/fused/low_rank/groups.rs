//! Rows grouped by the expert that serves them.

use crate::fused::flex::thin::Picked;

/// The pairs `row * k + choice`, grouped by expert.
pub(super) struct Groups {
    /// Expert e owns the places `start[e]..start[e + 1]`.
    start: Vec<usize>,
    /// The pair at each place.
    pairs: Vec<usize>,
    /// The row of the pair at each place.
    rows: Vec<usize>,
}

impl Groups {
    pub(super) fn new(chosen: &[usize], k: usize, experts: usize) -> Self {
        let mut start = vec![0; experts + 1];
        for &e in chosen {
            assert!(e < experts, "expert {e} chosen, but there are {experts}");
            start[e + 1] += 1;
        }
        for e in 0..experts {
            start[e + 1] += start[e];
        }
        let (mut next, mut pairs) = (start.clone(), chosen.to_vec());
        for (pair, &e) in chosen.iter().enumerate() {
            pairs[next[e]] = pair;
            next[e] += 1;
        }
        let rows = pairs.iter().map(|pair| pair / k).collect();
        Self { start, pairs, rows }
    }

    /// The experts that at least one row chose.
    pub(super) fn used(&self) -> impl Iterator<Item = usize> {
        (0..self.start.len() - 1).filter(|&e| self.start[e] < self.start[e + 1])
    }

    /// The pairs of one expert.
    pub(super) fn pairs(&self, e: usize) -> &[usize] {
        &self.pairs[self.start[e]..self.start[e + 1]]
    }

    /// The rows of one expert's pairs.
    pub(super) fn rows(&self, e: usize) -> &[usize] {
        &self.rows[self.start[e]..self.start[e + 1]]
    }

    /// A matrix with a row for each token, picked for one expert.
    pub(super) fn rows_of<'a>(&'a self, e: usize, values: &'a [f32], width: usize) -> Picked<'a> {
        Picked {
            values,
            width,
            rows: self.rows(e),
        }
    }

    /// A matrix with a row for each pair, picked for one expert.
    pub(super) fn pairs_of<'a>(&'a self, e: usize, values: &'a [f32], width: usize) -> Picked<'a> {
        Picked {
            values,
            width,
            rows: self.pairs(e),
        }
    }
}
