//! Text in as many rows as it needs.

use ratatui::text::{Line, Span};

/// Items in rows of at most `width` columns, two blanks between them; an item is never broken.
pub(super) fn flow(items: Vec<Vec<Span<'static>>>, width: usize) -> Vec<Line<'static>> {
    let mut rows: Vec<Line> = Vec::new();
    let mut taken = usize::MAX;
    for item in items {
        let wide: usize = item.iter().map(Span::width).sum();
        match rows.last_mut() {
            Some(row) if taken.saturating_add(2 + wide) <= width => {
                row.push_span("  ");
                row.extend(item);
                taken += 2 + wide;
            }
            _ => {
                rows.push(Line::from_iter(std::iter::once(Span::raw(" ")).chain(item)));
                taken = 1 + wide;
            }
        }
    }
    rows
}

/// A text in rows of at most `width` columns, broken at blanks; words that are wider are cut into
/// pieces.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut rows = vec![String::new()];
    let columns = |text: &str| Span::raw(text).width();
    for word in text.split(' ') {
        let mut word = word.to_owned();
        let last = rows.last().map_or(0, |row| columns(row));
        let blank = usize::from(last > 0);
        if last + blank + columns(&word) > width && last > 0 {
            rows.push(String::new());
        } else if blank > 0 {
            rows.last_mut().into_iter().for_each(|row| row.push(' '));
        }
        while columns(&word) > width {
            let mut piece = String::new();
            while let Some(next) = word.chars().next()
                && (piece.is_empty() || columns(&piece) + columns(&next.to_string()) <= width)
            {
                piece.push(word.remove(0));
            }
            rows.last_mut()
                .into_iter()
                .for_each(|row| row.push_str(&piece));
            rows.push(String::new());
        }
        rows.last_mut()
            .into_iter()
            .for_each(|row| row.push_str(&word));
    }
    rows
}

/// At most `rows` rows of a text; an ellipsis stands for what does not fit.
pub(super) fn shortened(text: &str, width: usize, rows: usize) -> Vec<String> {
    let mut found = wrap(text, width);
    if found.len() > rows {
        found.truncate(rows);
        if let Some(last) = found.last_mut() {
            while Span::raw(last.as_str()).width() + 1 > width && last.pop().is_some() {}
            last.push('…');
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_break_at_blanks_and_lose_nothing() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one", 7), ["one"]);
        assert_eq!(wrap("", 7), [""]);
        assert_eq!(
            wrap("a/very/long/path x", 6),
            ["a/very", "/long/", "path x"]
        );
        // Wide characters take two columns.
        assert_eq!(wrap("問題 です", 4), ["問題", "です"]);
        assert_eq!(wrap("abc", 0), ["a", "b", "c"]);
        assert_eq!(shortened("one two three four", 7, 2), ["one two", "three…"]);
        assert_eq!(shortened("one two", 7, 2), ["one two"]);
    }

    #[test]
    fn items_stay_whole() {
        let items = ["loss 1.0", "flu 0.4", "rate 2e-4"].map(|item| vec![Span::raw(item)]);
        let rows: Vec<String> = flow(items.to_vec(), 20)
            .iter()
            .map(Line::to_string)
            .collect();
        assert_eq!(rows, [" loss 1.0  flu 0.4", " rate 2e-4"]);
    }
}
