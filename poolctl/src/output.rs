//! How does data reach stdout? Tables and words for people, one JSON object per call for scripts.

use std::io::{ErrorKind, Write};

use api::ApiError;
use api::pool::Versioned;
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use serde::Serialize;

/// Where data goes and in which form. Colours only on a terminal, and not where `NO_COLOR` is set.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    /// For stdout as it is now.
    pub fn new(json: bool) -> Output {
        Output {
            json,
            colour: !json && console::colors_enabled(),
        }
    }

    /// Whether a script is reading.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Prints `value`, which must serialize to an object, as one line with `"schema": 1` in front.
    pub fn object(self, value: &impl Serialize) -> Result<(), ApiError> {
        self.line(&serde_json::to_string(&Versioned::new(value)).map_err(unwritable)?)
    }

    /// Prints text and ends the line.
    pub fn line(self, text: &str) -> Result<(), ApiError> {
        let mut stdout = std::io::stdout().lock();
        written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
    }

    /// Prints a table without frame; nothing at all when it has no rows.
    pub fn table(self, table: Grid) -> Result<(), ApiError> {
        if table.is_empty() {
            Ok(())
        } else {
            self.line(&table.render(self))
        }
    }

    /// One word about a state, coloured by how good it is.
    pub fn state(self, word: &str) -> String {
        match (self.colour, mood(word)) {
            (true, Mood::Good) => console::style(word).green().to_string(),
            (true, Mood::Busy) => console::style(word).yellow().to_string(),
            (true, Mood::Bad) => console::style(word).red().bold().to_string(),
            _ => word.to_owned(),
        }
    }

    /// Something that somebody should look at.
    pub fn warning(self, text: &str) -> String {
        if self.colour {
            console::style(text).red().bold().to_string()
        } else {
            text.to_owned()
        }
    }

    /// A heading.
    pub fn bold(self, text: &str) -> String {
        if self.colour {
            console::style(text).bold().to_string()
        } else {
            text.to_owned()
        }
    }
}

/// A reader that went away (`poolctl volume list | head -1`) has all it wanted.
fn written(result: std::io::Result<()>) -> Result<(), ApiError> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(ApiError::failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

fn unwritable(error: serde_json::Error) -> ApiError {
    ApiError::failed(format!("cannot write the answer as JSON: {error}"))
}

/// How good a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should be.
    Good,
    /// On its way there, or stopped on purpose.
    Busy,
    /// Somebody should look.
    Bad,
    /// Not a state this program knows.
    Plain,
}

/// How good is it to be in the state of this name (replica, node or job)?
pub fn mood(word: &str) -> Mood {
    match word {
        "uptodate" | "online" | "done" | "healthy" | "equal" | "open" => Mood::Good,
        "behind" | "syncing" | "paused" | "detached" | "creating" | "deleting" | "running" | "cancelling"
        | "cancelled" | "busy" | "opening" => Mood::Busy,
        "inconsistent" | "unreachable" | "split-brain" | "defective-log" | "marsd-down" | "failed"
        | "degraded" | "different" => Mood::Bad,
        _ => Mood::Plain,
    }
}

/// A table without frame: a bold head, columns by their widest cell.
pub struct Grid {
    head: Vec<&'static str>,
    rows: Vec<Vec<Field>>,
}

/// One cell.
#[derive(Clone, Debug)]
pub enum Field {
    /// To the left.
    Text(String),
    /// To the right.
    Number(String),
    /// Coloured as [`mood`] says.
    State(String),
}

impl Field {
    /// Words.
    pub fn text(text: impl std::fmt::Display) -> Field {
        Field::Text(text.to_string())
    }

    /// A figure, aligned to the right.
    pub fn number(text: impl std::fmt::Display) -> Field {
        Field::Number(text.to_string())
    }

    /// A state's word.
    pub fn state(text: impl std::fmt::Display) -> Field {
        Field::State(text.to_string())
    }

    fn cell(self, output: Output) -> Cell {
        match self {
            Field::Text(text) => Cell::new(text),
            Field::Number(text) => Cell::new(text).set_alignment(CellAlignment::Right),
            Field::State(text) => {
                let colour = match mood(first_word(&text)) {
                    _ if !output.colour => None,
                    Mood::Good => Some(Color::Green),
                    Mood::Busy => Some(Color::Yellow),
                    Mood::Bad => Some(Color::Red),
                    Mood::Plain => None,
                };
                let cell = Cell::new(text);
                match colour {
                    Some(colour) => cell.fg(colour),
                    None => cell,
                }
            }
        }
    }
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

impl Grid {
    /// An empty table with these column heads.
    pub fn new(head: &[&'static str]) -> Grid {
        Grid {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; it has one field per head.
    pub fn row(&mut self, fields: Vec<Field>) {
        debug_assert_eq!(fields.len(), self.head.len(), "one field per head");
        self.rows.push(fields);
    }

    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, without the last line's end and without blanks at line ends.
    pub fn render(self, output: Output) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if output.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let numeric: Vec<bool> = (0..self.head.len())
            .map(|column| {
                self.rows
                    .iter()
                    .any(|row| matches!(row.get(column), Some(Field::Number(_))))
            })
            .collect();
        table.set_header(self.head.iter().zip(numeric).map(|(head, numeric)| {
            let cell = Cell::new(head);
            let cell = if output.colour {
                cell.add_attribute(Attribute::Bold)
            } else {
                cell
            };
            if numeric {
                cell.set_alignment(CellAlignment::Right)
            } else {
                cell
            }
        }));
        for row in self.rows {
            table.add_row(row.into_iter().map(|field| field.cell(output)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// `1 volume`, `2 volumes`.
pub fn count(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

/// A quantity of data for people.
pub fn bytes(count: u64) -> String {
    model::Bytes(count).to_string()
}

/// A percentage that says 100 only when all of it is there.
pub fn percent(value: f64) -> String {
    let tenths = (value * 10.0).floor().clamp(0.0, 1000.0) / 10.0;
    if tenths >= 100.0 {
        "100%".to_owned()
    } else {
        format!("{tenths:.1}%")
    }
}

/// A duration in seconds for people: `0.3 s`, `42 s`, `3 min 7 s`, `2 h 5 min`, `3 d 4 h`.
pub fn seconds(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.1} s");
    }
    let whole = value.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// A short pause in microseconds for people: `840 µs`, `12.4 ms`, `1.2 s`.
pub fn micros(value: u64) -> String {
    match value {
        0..1000 => format!("{value} µs"),
        1000..1_000_000 => format!("{:.1} ms", value as f64 / 1e3),
        _ => seconds(value as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_say_them() {
        assert_eq!(percent(99.99), "99.9%");
        assert_eq!(percent(100.0), "100%");
        assert_eq!(percent(0.0), "0.0%");
        assert_eq!(seconds(0.25), "0.2 s");
        assert_eq!(seconds(187.0), "3 min 7 s");
        assert_eq!(seconds(7500.0), "2 h 5 min");
        assert_eq!(seconds(273_600.0), "3 d 4 h");
        assert_eq!(micros(840), "840 µs");
        assert_eq!(micros(12_400), "12.4 ms");
    }

    #[test]
    fn every_replica_state_has_a_mood() {
        for state in model::ReplicaState::ALL {
            assert_ne!(mood(&state.to_string()), Mood::Plain, "{state}");
        }
    }

    #[test]
    fn a_table_has_no_frame_and_no_blanks_at_line_ends() {
        let mut grid = Grid::new(&["NAME", "SIZE"]);
        grid.row(vec![Field::text("web"), Field::number("10 GiB")]);
        grid.row(vec![Field::text("database"), Field::number("1 GiB")]);
        let plain = Output {
            json: false,
            colour: false,
        };
        assert_eq!(
            grid.render(plain),
            "NAME        SIZE\nweb       10 GiB\ndatabase   1 GiB"
        );
    }
}
