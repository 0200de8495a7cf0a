//! What the words of a report mean: shown at the words themselves, at a report's end, and in
//! `docs/concepts.md`, which a test holds to this list.

use super::escape::escape;

/// A word of a report, and what it means.
pub(crate) struct Term {
    /// Its anchor in a page.
    id: &'static str,
    /// How it is written; further spellings follow the first.
    names: &'static [&'static str],
    /// What it means.
    pub(crate) meaning: &'static str,
}

/// Every term that is explained, in the order of `docs/concepts.md`.
pub(crate) const TERMS: [Term; 19] = [
    Term {
        id: "accuracy",
        names: &["Accuracy"],
        meaning: "the share of right answers.",
    },
    Term {
        id: "confidence",
        names: &["Confidence", "Mean confidence"],
        meaning: "the softmax probability of the chosen answer. `predict` and `serve` call it `probability`; what they call `confidence` is the calibrated one.",
    },
    Term {
        id: "ece",
        names: &["ECE", "expected calibration error"],
        meaning: "expected calibration error, the mean gap between confidence and accuracy over bins of confidence, weighted by their size.",
    },
    Term {
        id: "adaptive-ece",
        names: &["Adaptive ECE"],
        meaning: "ECE with bins of equal count.",
    },
    Term {
        id: "mce",
        names: &["MCE"],
        meaning: "the gap of the worst bin.",
    },
    Term {
        id: "nll",
        names: &["NLL"],
        meaning: "negative log-likelihood, the mean of -ln of the right choice's probability. It rewards calibration and discrimination at once. Lower is better.",
    },
    Term {
        id: "brier",
        names: &["Brier score"],
        meaning: "the mean squared distance of the choices' probabilities from the truth. Like NLL, but it punishes a confident error less.",
    },
    Term {
        id: "auroc",
        names: &["AUROC of correctness", "AUROC"],
        meaning: "the probability that a right answer has more confidence than a wrong one; 50 % is chance.",
    },
    Term {
        id: "coverage",
        names: &["Coverage", "Risk and coverage"],
        meaning: "the share of questions that are answered, the most confident first. Risk is the error rate among them.",
    },
    Term {
        id: "aurc",
        names: &["AURC"],
        meaning: "the area under the curve of risk against coverage. Lower is better.",
    },
    Term {
        id: "e-aurc",
        names: &["E-AURC"],
        meaning: "the part of AURC that a perfect order of the same answers avoids.",
    },
    Term {
        id: "first-answers",
        names: &["First answers"],
        meaning: "what the model said of training questions before the first step that learned from them. No label is held out, and they are answers to new questions. `calibrated` takes its temperature from them.",
    },
    Term {
        id: "base",
        names: &["Base", "base model"],
        meaning: "the model before fine-tuning, asked the same questions.",
    },
    Term {
        id: "majority",
        names: &["Majority"],
        meaning: "what always giving the choice that is right most often would reach, knowing nothing of a question.",
    },
    Term {
        id: "frequencies",
        names: &["Frequencies"],
        meaning: "what always stating how often each choice is right would reach.",
    },
    Term {
        id: "flu",
        names: &["FLU"],
        meaning: "functional-level uncertainty, the routers' probability of the experts that they choose. High means certain.",
    },
    Term {
        id: "temperature",
        names: &["Temperature"],
        meaning: "the number that all logits are divided by after training; above 1 it makes every answer less sure, below 1 surer.",
    },
    Term {
        id: "held-out",
        names: &["Held-out"],
        meaning: "questions that neither train the adapter nor test it: calibration, sets and thresholds come from them.",
    },
    Term {
        id: "interval",
        names: &["Brackets", "95 %"],
        meaning: "a 95 % bootstrap interval over the test questions.",
    },
];

impl Term {
    /// As a line of `docs/concepts.md`.
    #[cfg(test)]
    fn markdown(&self) -> String {
        format!("- **{}**: {}", self.names[0], self.meaning)
    }

    /// What it means, as text of a page.
    fn plain(&self) -> String {
        escape(&self.meaning.replace('`', ""))
    }
}

/// A text for a page, in which the first place of each term says what it means when it is pointed
/// at or has the focus.
pub(crate) fn explained(text: &str) -> String {
    let mut found: Vec<(usize, usize, &Term)> = Vec::new();
    for term in &TERMS {
        let places = term.names.iter().filter_map(|name| place(text, name));
        // Of several spellings at one place the longest.
        let first = places.min_by_key(|(from, to)| (*from, usize::MAX - to));
        found.extend(first.map(|(from, to)| (from, to, term)));
    }
    found.sort_by_key(|(from, to, _)| (*from, usize::MAX - to));
    let (mut page, mut at) = (String::new(), 0);
    for (from, to, term) in found {
        // A part of a longer term, such as ECE of adaptive ECE.
        if from < at {
            continue;
        }
        page += &escape(&text[at..from]);
        page += &format!(
            "<a class=term href=\"#term-{}\" data-tip=\"{}\">{}</a>",
            term.id,
            term.plain(),
            escape(&text[from..to])
        );
        at = to;
    }
    page + &escape(&text[at..])
}

/// Where a word stands in a text by itself, whatever its case; abbreviations keep theirs.
fn place(text: &str, name: &str) -> Option<(usize, usize)> {
    let abbreviation = name.chars().filter(|c| c.is_uppercase()).count() > 1;
    let (searched, sought) = match abbreviation {
        true => (text.to_owned(), name.to_owned()),
        // ASCII alone: other letters may change their length.
        false => (text.to_ascii_lowercase(), name.to_ascii_lowercase()),
    };
    searched.match_indices(&sought).find_map(|(from, _)| {
        let to = from + sought.len();
        let joins = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let before = text[..from].chars().next_back();
        let after = text[to..].chars().next();
        let alone = !before.is_some_and(joins) && !after.is_some_and(joins);
        alone.then_some((from, to))
    })
}

/// Every term with its meaning, as a list of a page.
pub(crate) fn list() -> String {
    let items: String = TERMS
        .iter()
        .map(|term| {
            let (id, name) = (term.id, escape(term.names[0]));
            format!("<dt id=\"term-{id}\">{name}</dt><dd>{}</dd>", term.plain())
        })
        .collect();
    format!("<dl>{items}</dl>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_of_a_term_is_explained_and_the_rest_is_escaped() {
        let page = explained("Adaptive ECE < ECE, and ECE of unFLUted E-AURC");
        assert_eq!(page.matches("data-tip").count(), 2, "{page}");
        assert!(page.starts_with("<a class=term href=\"#term-adaptive-ece\""));
        assert!(page.contains(">Adaptive ECE</a> &lt; ECE"), "{page}");
        assert!(page.contains(">E-AURC</a>"), "{page}");
        assert_eq!(explained("a <b> & c"), "a &lt;b&gt; &amp; c");
    }

    #[test]
    fn the_page_of_concepts_says_the_same() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/concepts.md");
        let page = std::fs::read_to_string(path).unwrap();
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let page = words(&page);
        for term in &TERMS {
            let line = term.markdown();
            assert!(
                page.contains(&words(&line)),
                "docs/concepts.md lacks: {line}"
            );
        }
    }
}
