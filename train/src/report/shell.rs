//! What every page that we write is built from: one shell, parts, tables that stack on a phone,
//! figures with their legends beside the plots.

use std::fmt::Write;

pub(crate) use super::escape::escape;
use super::glossary;

/// One style for reports and comparisons: light, dark, paper, phone.
const STYLE: &str = include_str!("style.css");

/// A whole page around a body: one file, no scripts, no links to anywhere else.
pub(crate) fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    let terms = part("terms", "Terms", &glossary::list());
    format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\"><title>{title}</title><style>\n{STYLE}</style></head>\n<body>\n{body}{terms}</body></html>\n"
    )
}

/// A part of a page, which begins a new sheet on paper.
pub(crate) fn part(id: &str, title: &str, content: &str) -> String {
    format!(
        "<section class=part id=\"{id}\"><h2>{}</h2>\n{content}</section>\n",
        escape(title)
    )
}

/// Something long below a title, folded until it is asked for.
pub(crate) fn folded(title: &str, content: &str, open: bool) -> String {
    let open = if open { " open" } else { "" };
    format!(
        "<details{open}><summary><h3>{}</h3></summary>\n{content}</details>\n",
        escape(title)
    )
}

/// A sentence in small letters.
pub(crate) fn small(text: &str) -> String {
    format!("<p class=small>{}</p>\n", glossary::explained(text))
}

/// A table; every column from `numbers` on holds numbers. Each cell knows its column's head, for
/// phones, where a row becomes a block.
pub(crate) fn table(heads: &[String], rows: &[Vec<String>], numbers: usize) -> String {
    let class = |column: usize| if column < numbers { "" } else { " class=n" };
    let mut text = String::from("<table class=stack><thead><tr>");
    for (column, head) in heads.iter().enumerate() {
        let head = glossary::explained(head);
        let _ = write!(text, "<th{}>{head}</th>", class(column));
    }
    text += "</tr></thead><tbody>\n";
    for row in rows {
        text += "<tr>";
        for (column, cell) in row.iter().enumerate() {
            let head = heads.get(column).map_or("", String::as_str);
            // Names of rows are terms; what stands in other cells is numbers or a user's text.
            let cell = match column {
                0 if numbers == 1 => glossary::explained(cell),
                place if place >= numbers => whole(&escape(cell)),
                _ => escape(cell),
            };
            let (class, head) = (class(column), escape(head));
            let _ = write!(text, "<td{class} data-head=\"{head}\">{cell}</td>");
        }
        text += "</tr>\n";
    }
    text + "</tbody></table>\n"
}

/// Numbers that break between each other alone: not within brackets, nor around a sign.
fn whole(cell: &str) -> String {
    let mut inside = false;
    let joined: String = cell
        .chars()
        .map(|c| {
            inside = (inside || c == '[') && c != ']';
            if inside && c == ' ' { '\u{a0}' } else { c }
        })
        .collect();
    joined.replace(" = ", "\u{a0}=\u{a0}")
}

/// A series of a plot, as its legend shows it.
pub(crate) struct Key {
    /// The class of its colour and stroke in the style.
    pub(crate) class: &'static str,
    /// What it is.
    pub(crate) name: String,
}

/// A plot with all that stands around it.
pub(crate) struct Figure {
    /// What it shows.
    pub(crate) title: String,
    /// The same for people who do not see it, with its figures.
    pub(crate) alt: String,
    /// The plot.
    pub(crate) svg: String,
    /// Its series; none where the title says all.
    pub(crate) keys: Vec<Key>,
}

impl Figure {
    /// As a part of a page.
    pub(crate) fn html(&self) -> String {
        let svg = self.svg.replacen(
            "<svg ",
            &format!("<svg role=img aria-label=\"{}\" ", escape(&self.alt)),
            1,
        );
        let keys: String = self
            .keys
            .iter()
            .map(|key| {
                let (class, name) = (key.class, glossary::explained(&key.name));
                format!("<li><span class=\"key {class}\"></span>{name}</li>")
            })
            .collect();
        let legend = match keys.is_empty() {
            true => String::new(),
            false => format!("<ul class=legend>{keys}</ul>"),
        };
        let title = glossary::explained(&self.title);
        format!("<figure><figcaption>{title}</figcaption>{legend}{svg}</figure>\n")
    }
}

/// Plots beside each other, as many as the page is wide.
pub(crate) fn figures(found: &[Figure]) -> String {
    let figures: String = found.iter().map(Figure::html).collect();
    format!("<div class=plots>{figures}</div>\n")
}

/// A number that matters, with what it is to be held against.
pub(crate) struct Card {
    /// Its name.
    pub(crate) name: String,
    /// The number.
    pub(crate) value: String,
    /// Names and values: its interval, the base model, who knows nothing.
    pub(crate) beside: Vec<(String, String)>,
    /// What it says.
    pub(crate) sentence: String,
}

/// Numbers that matter, beside each other; `wide` where much stands beside each.
pub(crate) fn cards(cards: &[Card], wide: bool) -> String {
    let one = |card: &Card| {
        let beside: String = card
            .beside
            .iter()
            .map(|(name, value)| {
                let name = glossary::explained(name);
                format!("<dt>{name}</dt><dd>{}</dd>", whole(&escape(value)))
            })
            .collect();
        format!(
            "<div class=card><h3>{}</h3><p class=value>{}</p><dl>{beside}</dl><p>{}</p></div>\n",
            glossary::explained(&card.name),
            escape(&card.value),
            glossary::explained(&card.sentence)
        )
    };
    let cards: String = cards.iter().map(one).collect();
    let wide = if wide { " wide" } else { "" };
    format!("<div class=\"cards{wide}\">{cards}</div>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_stay_in_one_row() {
        assert_eq!(
            whole("1.0 [0.5, 1.5], p = 0.1"),
            "1.0 [0.5,\u{a0}1.5], p\u{a0}=\u{a0}0.1"
        );
    }

    #[test]
    fn nothing_of_a_users_text_is_markup() {
        let bad = "<script>&\"".to_owned();
        let rows = [vec![bad.clone(), bad.clone()]];
        let figure = Figure {
            title: bad.clone(),
            alt: bad.clone(),
            svg: "<svg width=1></svg>".into(),
            keys: vec![Key {
                class: "blue",
                name: bad.clone(),
            }],
        };
        let card = Card {
            name: bad.clone(),
            value: bad.clone(),
            beside: vec![(bad.clone(), bad.clone())],
            sentence: bad.clone(),
        };
        let body = table(&[bad.clone(), bad.clone()], &rows, 1)
            + &figures(&[figure])
            + &cards(&[card], true)
            + &folded(&bad, "", false)
            + &small(&bad);
        let page = page(&bad, &part("x", &bad, &body));
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(
            page.matches("&lt;script&gt;&amp;&quot;").count(),
            18,
            "{page}"
        );
    }
}
