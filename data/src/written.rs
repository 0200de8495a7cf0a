//! When an answer that the model wrote in its own words is right.

/// The text in lower case, without punctuation and articles, with single spaces.
///
/// This is the normalisation of TriviaQA's own evaluation (Joshi et al. 2017), except that a text
/// of nothing but articles keeps them.
pub fn normalized(text: &str) -> String {
    let plain: String = text
        .to_lowercase()
        .chars()
        .map(|c| match c {
            c if c.is_ascii_punctuation() => ' ',
            '‘' | '’' | '´' => ' ',
            c => c,
        })
        .collect();
    let words: Vec<&str> = plain.split_whitespace().collect();
    let telling = words
        .iter()
        .filter(|word| !["a", "an", "the"].contains(word));
    let telling: Vec<&str> = telling.copied().collect();
    // The answer "A" is a letter, not an article.
    match telling.is_empty() {
        true => words.join(" "),
        false => telling.join(" "),
    }
}

/// Whether a text equals one of the accepted answers once both are [`normalized`]. A text that
/// normalises to nothing is never right.
pub fn is_accepted(text: &str, accepted: &[String]) -> bool {
    let text = normalized(text);
    !text.is_empty() && accepted.iter().any(|answer| normalized(answer) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_articles_and_spaces_do_not_count() {
        for (text, expected) in [
            ("The Eiffel  Tower!", "eiffel tower"),
            ("AC/DC", "ac dc"),
            ("Pigs_(disambiguation)", "pigs disambiguation"),
            ("an apple a day", "apple day"),
            ("Rock ‘n’ Roll", "rock n roll"),
            ("Ångström", "ångström"),
            ("the A", "the a"),
            ("!", ""),
        ] {
            assert_eq!(normalized(text), expected, "{text}");
        }
        let accepted = ["Rome".to_string(), "the Eternal City".into()];
        assert!(is_accepted(" eternal city.", &accepted));
        assert!(!is_accepted("eternal", &accepted));
        assert!(!is_accepted("The", &["A".into()]) && is_accepted("a.", &["A".into()]));
        assert!(!is_accepted("?", &["!".into()]));
    }
}
