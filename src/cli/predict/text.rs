//! An answer as a person reads it.

use train::answering::{Answer, Calibration, Decision};

/// An answer for reading: what it is and how sure that is, then what the model states.
pub(super) fn describe(answer: &Answer, choices: &[String]) -> String {
    let letter = |choice: usize| char::from(b'A' + choice as u8);
    let says = match &answer.label {
        Some(label) => format!("{label}: {}", answer.text),
        None => answer.text.clone(),
    };
    let says = match answer.decision {
        Some(Decision::Abstain) => format!("abstains (would say {says})"),
        _ => says,
    };
    let mut lines = vec![says, sureness(answer)];
    if answer.label.is_none() {
        let stated = 100.0 * answer.probability;
        lines.push(format!("the model states {stated:.1} %"));
    } else {
        lines.push("the model states".into());
    }
    for (choice, p) in answer.probabilities.iter().enumerate().take(choices.len()) {
        let bar = "#".repeat((p * 40.0).round() as usize);
        lines.push(format!(
            "  {} {:5.1} %  {bar:40}  {}",
            letter(choice),
            100.0 * p,
            choices[choice]
        ));
    }
    let mut more = Vec::new();
    if let Some(flu) = answer.flu {
        more.push(format!("FLU {flu:.3} (high = certain)"));
    }
    let set: Vec<String> = answer.set.iter().map(|c| letter(*c).to_string()).collect();
    if !set.is_empty() {
        more.push(format!("may be right: {}", set.join(", ")));
    }
    lines.push(more.join(", "));
    lines.join("\n").trim_end().to_owned()
}

/// The number to trust, and what it rests on.
fn sureness(answer: &Answer) -> String {
    let mut text = format!("{:.1} % sure", 100.0 * answer.confidence);
    if let Some([low, high]) = answer.interval {
        // First answers give none.
        let by = match answer.calibration {
            Calibration::FirstAnswers => " by held-out questions",
            _ => "",
        };
        text += &format!(" [{:.0}, {:.0}{by}]", 100.0 * low, 100.0 * high);
    }
    text += ", ";
    text += &answer.calibration.reason(answer.calibrated_on);
    if let Some(below) = answer.below_chance {
        text += &format!(
            " (raised to chance from a calibrated {:.1} %)",
            100.0 * below
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_to_trust_comes_first_and_says_what_it_rests_on() {
        let answer = |calibration, calibrated_on| Answer {
            id: "q".into(),
            answer: Some(0),
            label: Some("A".into()),
            text: "yes".into(),
            probability: 0.91,
            confidence: 0.712,
            interval: Some([0.6, 0.81]),
            calibrated_on,
            calibration,
            below_chance: None,
            flu: None,
            probabilities: vec![0.91, 0.09],
            set: vec![0, 1],
            shortened: false,
            decision: None,
            correct: None,
        };
        let choices = ["yes".to_owned(), "no".to_owned()];
        let says = |calibration, on| describe(&answer(calibration, on), &choices);
        let text = says(Calibration::Temperature, 200);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "A: yes");
        assert_eq!(
            lines[1],
            "71.2 % sure [60, 81], calibrated on 200 held-out questions"
        );
        assert_eq!(lines[2], "the model states");
        assert!(lines[3].starts_with("  A  91.0 %  ####"), "{text}");
        assert_eq!(lines[5], "may be right: A, B");
        for (calibration, on, reason) in [
            (
                Calibration::AsStated,
                5,
                "as the model states it: its 5 held-out questions support no calibration",
            ),
            (
                Calibration::AsStated,
                0,
                "as the model states it: there were no held-out questions to check it on",
            ),
            (
                Calibration::FirstAnswers,
                900,
                "calibrated on the first answers to 900 training questions",
            ),
        ] {
            let text = says(calibration, on);
            assert!(text.contains(&format!(", {reason}\n")), "{text}");
        }
    }
}
