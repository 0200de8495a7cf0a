//! Names that a user types: found whatever their case, and the nearest one where there is none.

/// The name among `known` that is meant, whatever the case of its letters.
pub fn known<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut known = known.into_iter();
    known.find(|known| known.eq_ignore_ascii_case(name))
}

/// A message about an unknown word, with the nearest known one.
///
/// ```
/// let message = data::names::unknown("dataset", "Bolq", &["boolq", "pira"]);
/// assert_eq!(
///     message,
///     "unknown dataset `Bolq`. Did you mean `boolq`? Known: boolq, pira"
/// );
/// ```
pub fn unknown(kind: &str, wrong: &str, known: &[&str]) -> String {
    format!(
        "unknown {kind} `{wrong}`.{} Known: {}",
        suggestion(wrong, known.iter().copied()),
        known.join(", ")
    )
}

/// ` Did you mean ..?` with the nearest of the known words; empty where none is near.
pub fn suggestion<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let lower = wrong.to_ascii_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&lower, &known.to_ascii_lowercase());
    let nearest = known
        .into_iter()
        .map(|known| (distance(known), known))
        .min()
        .filter(|(distance, known)| *distance <= (known.chars().count() / 2).max(2));
    nearest.map_or(String::new(), |(_, known)| {
        format!(" Did you mean `{known}`?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whatever_their_case_and_far_ones_are_not_guessed() {
        assert_eq!(known("BoolQ", ["pira", "boolq"]), Some("boolq"));
        assert_eq!(known("bool", ["pira", "boolq"]), None);
        assert_eq!(suggestion("BOLQ", ["boolq"]), " Did you mean `boolq`?");
        assert_eq!(suggestion("something else", ["boolq", "pira"]), "");
    }
}
