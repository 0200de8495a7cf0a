//! The terms of the objective, each a function of tensors to a scalar.
//!
//! | term | equation |
//! |---|---|
//! | [`cross_entropy`] | CE of Eq. 14 |
//! | [`load_balancing`] | Eq. 15-16 |
//! | [`calibration`] | Eq. 12-13 |
//! | [`choices`] | in place of CE: label smoothing, Brier, focal; beside it: MMCE |

use burn::prelude::*;

pub mod calibration;
pub mod choices;
pub mod cross_entropy;
pub mod load_balancing;

/// A named term with its weight in the total.
#[derive(Debug, Clone)]
pub struct Term {
    /// The field's name: `cross_entropy`, `choice_loss`, `mmce`, `load_balancing_loss`,
    /// `calibration_loss`.
    pub name: &'static str,
    /// Unweighted value of the term, `[1]`.
    pub value: Tensor<1>,
    /// Factor of the value in the total.
    pub weight: f64,
}

/// What training minimises: `sum weight * value` (Eq. 14).
#[derive(Debug, Clone)]
pub struct Objective {
    /// The terms, cross-entropy first.
    pub terms: Vec<Term>,
}

impl Objective {
    /// The weighted sum. A term of weight 0 is left out of the graph, so that it changes no bit of
    /// the others.
    pub fn total(&self) -> Tensor<1> {
        let mut terms = self.terms.iter().filter(|term| term.weight != 0.0);
        let first = terms.next().expect("an objective has a weighted term");
        terms.fold(first.value.clone() * first.weight, |sum, term| {
            sum + term.value.clone() * term.weight
        })
    }
}
