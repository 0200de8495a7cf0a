//! Examples before a question: training questions with their answers.

use std::collections::HashSet;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::example::MultipleChoice;

/// Examples of the training questions, the same before every question. Only an example itself, and
/// a question of its group, is asked with another in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shots {
    /// Number of examples before a question.
    count: usize,
    /// The examples in their order, then those that take the place of others.
    pool: Vec<MultipleChoice>,
}

/// At most two examples fall away before a question: itself, and one of its group.
const SPARE: usize = 2;

impl Shots {
    /// Draws `count` examples of training questions by a seed, no two alike or of one group. Fewer
    /// where there are not so many.
    pub fn draw(train: &[MultipleChoice], count: usize, seed: u64) -> Self {
        let mut order: Vec<&MultipleChoice> = train.iter().collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let (mut asked, mut groups) = (HashSet::new(), HashSet::new());
        let distinct = order.into_iter().filter(|question| {
            let group = question.group.as_ref();
            asked.insert(question.fingerprint()) && group.is_none_or(|group| groups.insert(group))
        });
        Self {
            count,
            pool: distinct.take(count + SPARE).cloned().collect(),
        }
    }

    /// Number of examples before a question, where there are so many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The examples before a question.
    pub fn before(&self, question: &MultipleChoice) -> impl Iterator<Item = &MultipleChoice> {
        let asked = question.fingerprint();
        let others = self.pool.iter().filter(move |example| {
            let grouped = example.group.is_some() && example.group == question.group;
            !grouped && example.fingerprint() != asked
        });
        others.take(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(n: usize) -> Vec<MultipleChoice> {
        let one = |i: usize| MultipleChoice {
            group: i.is_multiple_of(2).then(|| format!("g{}", i / 4)),
            ..MultipleChoice::new(
                &format!("What is {i}?"),
                vec!["a".into(), "b".into()],
                i % 2,
            )
        };
        (0..n).map(one).collect()
    }

    #[test]
    fn a_question_is_never_its_own_example_nor_of_an_examples_group() {
        let train = questions(40);
        for seed in 0..20 {
            let shots = Shots::draw(&train, 3, seed);
            assert_eq!(shots, Shots::draw(&train, 3, seed));
            let other = MultipleChoice::new("Unseen?", vec!["a".into(), "b".into()], 0);
            let usual: Vec<_> = shots.before(&other).collect();
            assert_eq!(usual.len(), 3);
            for question in &train {
                let before: Vec<_> = shots.before(question).collect();
                assert_eq!(before.len(), 3);
                for example in before {
                    assert_ne!(example.question, question.question);
                    assert!(example.group.is_none() || example.group != question.group);
                }
            }
        }
        assert_ne!(Shots::draw(&train, 3, 0), Shots::draw(&train, 3, 1));
        // Case and the order of choices do not make another question.
        let mut twin = train[0].clone();
        twin.question = twin.question.to_uppercase();
        twin.choices.reverse();
        let shots = Shots::draw(&train[..1], 1, 0);
        assert_eq!(shots.before(&twin).count(), 0);
    }
}
