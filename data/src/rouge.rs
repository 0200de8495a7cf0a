//! ROUGE-L, the likeness of two texts (Lin 2004).

/// F1 of ROUGE-L: the longest common subsequence of words against the lengths of both texts.
///
/// Words are runs of ASCII letters and digits, in lower case, as the package `rouge-score` takes
/// them. Two texts of which one has no words are not alike: 0.
pub fn rouge_l(a: &str, b: &str) -> f64 {
    let (a, b) = (words(a), words(b));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let mut row = vec![0usize; b.len() + 1];
    for left in &a {
        let mut diagonal = 0;
        for (j, right) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = match left == right {
                true => diagonal + 1,
                false => above.max(row[j]),
            };
            diagonal = above;
        }
    }
    2.0 * row[b.len()] as f64 / (a.len() + b.len()) as f64
}

fn words(text: &str) -> Vec<String> {
    text.to_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rouge_l_equals_the_packages_values() {
        // rouge-score 0.1.2, RougeScorer(["rougeL"]).score(a, b)["rougeL"].fmeasure
        let a = "The quick brown fox jumps over the lazy dog.";
        for (b, expected) in [
            (a, 1.0),
            ("the brown dog jumps over a fox", 0.5),
            (
                "you are helpful. The quick brown fox jumps over the lazy dog",
                6.0 / 7.0,
            ),
            ("...", 0.0),
        ] {
            assert!(
                (rouge_l(a, b) - expected).abs() < 1e-6,
                "{b}: {}",
                rouge_l(a, b)
            );
        }
    }
}
