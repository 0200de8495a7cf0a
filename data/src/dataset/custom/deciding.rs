//! What the rows of a whole file tell: which columns hold what, and how its answers count.

use serde_json::Value;

use super::answers::{Counting, Found, Numbers, Readings};
use super::columns::Columns;
use super::{Custom, choices};
use crate::error::DataError;
use crate::rows::{Row, Rows};

impl Custom {
    /// The same settings for a file that need not have their fields: those that none of its rows
    /// has are looked for by their usual names.
    pub fn where_present(&self, rows: &[Row]) -> Self {
        self.where_known(&Columns::of(rows))
    }

    /// As [`Self::where_present`], of rows that need not be in memory.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn where_present_in(&self, rows: &dyn Rows) -> Result<Self, DataError> {
        Ok(self.where_known(&Columns::of_all(rows)?))
    }

    fn where_known(&self, columns: &Columns) -> Self {
        let plain = Self::default();
        let mut own = self.clone();
        if own.templates.is_some() {
            return own;
        }
        for (field, plain) in [
            (&mut own.question, plain.question),
            (&mut own.answer, plain.answer),
            (&mut own.passage, plain.passage),
            (&mut own.id, plain.id),
            (&mut own.group, plain.group),
            (&mut own.aliases, plain.aliases),
        ] {
            if !columns.has(field) {
                *field = plain;
            }
        }
        if !own.choices.iter().all(|field| columns.has(field)) {
            own.choices = plain.choices;
        }
        own
    }

    /// The same settings, with the usual names of fields that the rows have in place of the
    /// defaults that they lack. A name that was given stays.
    pub fn with_columns(&self, rows: &[Row]) -> Self {
        let columns = Columns::of(rows);
        let mut own = self.with_known(&columns);
        if own.lacks_answer(&columns) {
            let mut likeliest = own.likeliest(&columns);
            rows.iter().for_each(|(_, row)| likeliest.see(row));
            own = own.with_answer(likeliest);
        }
        own
    }

    /// As [`Self::with_columns`], of rows that need not be in memory.
    fn with_columns_of(&self, rows: &dyn Rows) -> Result<Self, DataError> {
        // A task file makes the fields.
        if self.templates.is_some() {
            return Ok(self.clone());
        }
        let columns = Columns::of_all(rows)?;
        let mut own = self.with_known(&columns);
        if own.lacks_answer(&columns) {
            let mut likeliest = own.likeliest(&columns);
            for row in rows.pass()? {
                likeliest.see(&row?.1);
            }
            own = own.with_answer(likeliest);
        }
        Ok(own)
    }

    /// The same settings, with the usual names of columns but for the answer's.
    fn with_known(&self, columns: &Columns) -> Self {
        let plain = Self::default();
        let mut own = self.clone();
        if own.templates.is_some() {
            return own;
        }
        let gap = |field: &str, plain: &str| field == plain && !columns.has(field);
        if gap(&own.question, &plain.question)
            && let Some(found) = columns.question()
        {
            own.take("question", &[found]);
        }
        if !own.written
            && own.choices == plain.choices
            && gap("choices", "choices")
            && let Some(found) = columns.choices()
        {
            own.take("choices", &found);
        }
        // The uniform format's name is known.
        if gap(&own.passage, &plain.passage)
            && !columns.has("passage")
            && let Some(found) = columns.passage()
        {
            own.take("passage", &[found]);
        }
        own
    }

    /// Whether no column has the name of the answer, which nobody has given.
    fn lacks_answer(&self, columns: &Columns) -> bool {
        let usual = self.answer == Self::default().answer && self.templates.is_none();
        usual && !columns.has(&self.answer)
    }

    /// The columns that may hold the right answer, before any row.
    fn likeliest(&self, columns: &Columns) -> Likeliest {
        let named = columns.answers().map(|name| Self {
            answer: name.into(),
            ..self.clone()
        });
        Likeliest(named.map(|own| (own, 0, 0)).collect())
    }

    fn with_answer(mut self, likeliest: Likeliest) -> Self {
        if let Some(found) = likeliest.best() {
            self.take("answer", &[&found]);
        }
        self
    }

    pub(super) fn take(&mut self, setting: &'static str, names: &[&str]) {
        let field = match setting {
            "question" => &mut self.question,
            "passage" => &mut self.passage,
            "answer" => &mut self.answer,
            _ => {
                self.choices = names.iter().map(ToString::to_string).collect();
                self.found.push((setting, self.choices.join(", ")));
                return;
            }
        };
        names[0].clone_into(field);
        self.found.push((setting, names[0].to_owned()));
    }

    /// The same settings, with what all rows of a file together tell about its fields and answers.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn decided_by(&self, rows: &dyn Rows) -> Result<Self, DataError> {
        let mut own = self.with_columns_of(rows)?;
        let mut numbers = Numbers::default();
        own.each(rows, |row, choices| {
            own.see_number(row, choices, &mut numbers)
        })?;
        // Who says it is followed; then what the file itself tells; then the run's other files.
        let first = own.count_from.or(numbers.first()).or(own.elsewhere);
        own.counting = Some(Counting::of(first));
        own.ambiguous = first.is_none() && numbers.is_ambiguous();
        let mut readings = Readings::ALL;
        own.each(rows, |row, choices| {
            if let Ok(Some(Found::Text(found))) = own.found(row, choices) {
                readings = readings.and(found.readings());
            }
        })?;
        own.readings = readings.any().then_some(readings);
        Ok(own)
    }

    /// The same settings, with what several files tell: one may hold no answer that shows how all
    /// of them count. They are looked at one after the other.
    ///
    /// # Errors
    /// A row that cannot be read, and a name that was given to a field which no row has.
    pub fn agreed_by<R: Rows>(&self, files: impl Iterator<Item = R>) -> Result<Self, DataError> {
        let mut columns = Columns::default();
        let mut told: Vec<usize> = Vec::new();
        for rows in files {
            let own = self.with_columns_of(&rows)?;
            let mut numbers = Numbers::default();
            own.each(&rows, |row, choices| {
                columns.see(row);
                own.see_number(row, choices, &mut numbers);
            })?;
            told.extend(numbers.first());
        }
        // Where no row can be used, that is what has to be said.
        if self.templates.is_none() && !columns.is_empty() {
            self.refuse_absent(&columns)?;
        }
        told.sort_unstable();
        told.dedup();
        Ok(match told[..] {
            [first] => self.counting_elsewhere(Some(first)),
            _ => self.clone(),
        })
    }

    /// The same settings, with the number of the first choice in files that a run has read: for a
    /// file that does not tell it.
    pub fn counting_elsewhere(&self, first: Option<usize>) -> Self {
        Self {
            elsewhere: first,
            ..self.clone()
        }
    }

    /// Refuses names that were given to fields which no row of a file has. Rows may lack these
    /// fields, so a mistyped name would go unnoticed.
    ///
    /// # Errors
    /// The first such name, with those that there are.
    pub fn refuse_misnamed(&self, rows: &dyn Rows) -> Result<(), DataError> {
        self.refuse_absent(&Columns::of_all(rows)?)
    }

    fn refuse_absent(&self, columns: &Columns) -> Result<(), DataError> {
        let plain = Self::default();
        for (setting, field, plain) in [
            ("answer", &self.answer, plain.answer),
            ("passage", &self.passage, plain.passage),
            ("id", &self.id, plain.id),
            ("group", &self.group, plain.group),
            ("aliases", &self.aliases, plain.aliases),
        ] {
            if *field != plain && !columns.has(field) {
                let reason = format!("{field}: no row has it; the fields are {}", columns.list());
                return Err(DataError::setting(format!("data.custom.{setting}"), reason));
            }
        }
        Ok(())
    }

    /// Every row whose choices can be read, in the fields that are read. Any other row is named
    /// where it is parsed.
    fn each(
        &self,
        rows: &dyn Rows,
        mut see: impl FnMut(&Value, &[String]),
    ) -> Result<(), DataError> {
        for row in rows.pass()? {
            let row = row?;
            if let Ok(row) = self.row(&row.1)
                && let Ok(choices) = self.choices(&row)
            {
                see(&row, &choices);
            }
        }
        Ok(())
    }

    /// Takes in how a row's answer counts, if it is a number.
    fn see_number(&self, row: &Value, choices: &[String], numbers: &mut Numbers) {
        if self.written || choices::labels(row, &self.choices).is_some() {
            numbers.see_named();
        }
        let value = row.get(self.answer_field(row));
        let given = |value: &&Value| value.as_str().is_none_or(|text| !text.is_empty());
        if let Some(value) = value.filter(|value| !value.is_null()).filter(given) {
            numbers.see(value, choices);
        }
    }
}

/// Columns that may hold the right answer: the settings that read each, the rows from which they
/// read one, and the rows that have anything there.
struct Likeliest(Vec<(Custom, usize, usize)>);

impl Likeliest {
    fn see(&mut self, row: &Value) {
        for (own, read, given) in &mut self.0 {
            let Ok(choices) = own.choices(row) else {
                continue;
            };
            let found = own.found(row, &choices);
            *given += usize::from(!matches!(found, Ok(None)));
            *read += usize::from(match found {
                Ok(Some(Found::Index(index))) => index <= choices.len(),
                Ok(Some(Found::Text(found))) => found.readings().any() || own.written,
                _ => false,
            });
        }
    }

    /// The column by which most rows have an answer, the first of several.
    fn best(self) -> Option<String> {
        let mut best: Option<(usize, String)> = None;
        for (own, read, given) in self.0 {
            // A column of another purpose, such as a free text, is no answer.
            let is_answer = read > 0 && 2 * read >= given;
            if is_answer && best.as_ref().is_none_or(|(known, _)| read > *known) {
                best = Some((read, own.answer));
            }
        }
        best.map(|(_, name)| name)
    }
}
