//! Other wordings of a prompt, made by rule, for SPUQ.

use crate::prompt::Prompt;
use crate::rouge::rouge_l;
use crate::seed::mix;
use crate::template::INSTRUCTIONS;

/// Lines that change nothing about a question, put before the prompt.
const SYSTEM_LINES: [&str; 5] = [
    "You are a helpful assistant.\n",
    "You are a question-answering assistant.\n",
    "You are a nice assistant.\n",
    "You are an AI support tool.\n",
    "You are a friendly helper.\n",
];

/// Marks that mean nothing, put at one end of the question.
const DUMMY_TOKENS: [&str; 5] = ["\n", "\t", "...", " um, ", "?"];

/// Other wordings of a prompt, each with its likeness to the original (ROUGE-L).
///
/// A system line, a meaningless mark and another instruction take turns, drawn from `seed`. The
/// choices and the place where the answer is read stay as they are.
pub fn perturbations(prompt: &Prompt, count: usize, seed: u64) -> Vec<(Prompt, f64)> {
    let own = prompt.alone().text();
    (0..count)
        .map(|number| {
            let other = perturbed(prompt, number, seed);
            let likeness = rouge_l(&own, &other.alone().text());
            (other, likeness)
        })
        .collect()
}

fn perturbed(prompt: &Prompt, number: usize, seed: u64) -> Prompt {
    let kind = number % 3;
    // Rounds of one kind follow each other, so that none comes twice before all have come.
    let draw = |n: usize| (mix(seed, kind as u64) as usize % n + number / 3) % n;
    let mut other = prompt.clone();
    match kind {
        0 => other.head = [SYSTEM_LINES[draw(5)], &prompt.head].concat(),
        1 => {
            let mark = DUMMY_TOKENS[draw(5)];
            // Behind it only where something still parts it from the answer's place.
            let behind = mix(seed, 100 + number as u64) % 2 == 1 && !prompt.tail.is_empty();
            match behind {
                false => other.shortenable = [mark, &prompt.shortenable].concat(),
                true => other.shortenable.push_str(mark),
            }
        }
        _ => {
            let mut known = INSTRUCTIONS.iter();
            let known = known.find(|instruction| prompt.head.starts_with(instruction.text));
            other.head = match known {
                Some(instruction) => {
                    let other = instruction.rewordings[draw(3)];
                    prompt.head.replacen(instruction.text, other, 1)
                }
                None => ["Read this and answer. ", &prompt.head].concat(),
            };
        }
    }
    other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::MultipleChoice;
    use crate::prompt::LabelStyle;
    use crate::template::Template;

    #[test]
    fn perturbations_keep_choices_and_end_and_follow_the_seed() {
        let choices = ["ice", "Steel.", "stone"].map(String::from);
        let question = MultipleChoice::new("What melts?", choices.into(), 0);
        let prompt = Template::MoePeft.render(&question, LabelStyle::Letter);
        let found = perturbations(&prompt, 5, 7);
        assert_eq!(found.len(), 5);
        for (other, likeness) in &found {
            assert_eq!((&other.tail, &other.labels), (&prompt.tail, &prompt.labels));
            assert_ne!(other.text(), prompt.text());
            assert!(other.text().contains("What melts?"));
            assert!((0.5..=1.0).contains(likeness), "{likeness}");
        }
        assert_eq!(found, perturbations(&prompt, 5, 7));
        assert_ne!(found, perturbations(&prompt, 5, 8));
        assert!(found[0].0.head.starts_with("You are "));
        assert!(!found[2].0.head.starts_with("Please choose"));
    }
}
