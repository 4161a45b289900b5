//! Which values a key takes.

use std::fmt;

use toml::Value;

use crate::mistake::Fault;
use crate::place::At;

/// A form of text.
#[derive(Clone, Copy)]
pub struct Shape {
    /// What it is, as an operator would be told: `an IPv4 network, such as 10.64.0.0/10`.
    pub said: &'static str,
    /// Whether a text has it.
    pub fits: fn(&str) -> bool,
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.said)
    }
}

/// The type of a value, and its bounds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int {
        /// The least.
        least: i64,
        /// The most.
        most: i64,
    },
    /// A number.
    Number {
        /// The least.
        least: f64,
        /// The most.
        most: f64,
    },
    /// Text of a form.
    Text(Shape),
    /// One of these.
    Choice(&'static [&'static str]),
    /// A list of texts.
    Texts {
        /// What each is.
        each: Shape,
        /// How many there may be.
        most: usize,
    },
    /// A list of tables.
    Tables {
        /// What each has.
        fields: &'static [Field],
        /// How many there may be.
        most: usize,
    },
}

/// A key of the tables in a list.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether it has to be there.
    pub needed: bool,
    /// What it means.
    pub said: &'static str,
}

/// A key of `mote.toml`.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.name`.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its value is never printed, and the kernel command line is no place for it.
    pub secret: bool,
    /// Without it the machine may not be reached: kept of a layer that is left out for another mistake.
    pub reach: bool,
}

impl Key {
    /// A key that is neither secret nor needed to reach the machine.
    pub const fn new(path: &'static str, kind: Kind) -> Self {
        Self { path, kind, secret: false, reach: false }
    }

    /// Section and name.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("true or false"),
            Self::Int { least, most: i64::MAX } => write!(f, "a whole number from {least}"),
            Self::Int { least, most } => write!(f, "a whole number from {least} to {most}"),
            Self::Number { least, most } => write!(f, "a number from {least} to {most}"),
            Self::Text(shape) => f.write_str(shape.said),
            Self::Choice(names) => f.write_str(&names.join(", ")),
            Self::Texts { each, most } => write!(f, "a list of at most {most}, each {}", each.said),
            Self::Tables { most, .. } => write!(f, "a list of at most {most} tables"),
        }
    }
}

impl Kind {
    /// Checks a value that stands at `at` and brings it into the one form it is kept in.
    pub(crate) fn check(
        &self,
        value: Value,
        at: &[At],
        secret: bool,
        faults: &mut Vec<Fault>,
    ) -> Option<Value> {
        let before = faults.len();
        let checked = match (self, value) {
            (Self::Bool, value @ Value::Boolean(_)) => value,
            (Self::Int { least, most }, Value::Integer(number)) if (*least..=*most).contains(&number) => {
                Value::Integer(number)
            }
            (Self::Number { least, most }, Value::Float(number)) if (*least..=*most).contains(&number) => {
                Value::Float(number)
            }
            (Self::Number { least, most }, Value::Integer(number)) => {
                match i32::try_from(number).map(f64::from) {
                    Ok(number) if (*least..=*most).contains(&number) => Value::Float(number),
                    _ => return self.refuse(&Value::Integer(number), at, secret, faults),
                }
            }
            (Self::Text(shape), Value::String(text)) if (shape.fits)(&text) => Value::String(text),
            (Self::Choice(names), Value::String(text)) => {
                if names.contains(&text.as_str()) {
                    Value::String(text)
                } else {
                    let near = crate::schema::nearest(&text, names.iter().copied());
                    let fault = Fault::at(at, format!("{} is none of {self}", shown(&text, secret)));
                    faults.push(match near {
                        Some(near) => fault.way_out(format!("did you mean {near}?")),
                        None => fault,
                    });
                    return None;
                }
            }
            (Self::Texts { most, .. } | Self::Tables { most, .. }, Value::Array(items))
                if items.len() > *most =>
            {
                faults.push(Fault::at(at, format!("{} entries, at most {most}", items.len())));
                return None;
            }
            (Self::Texts { each, .. }, Value::Array(items)) => {
                let item = Self::Text(*each);
                let checked = items.into_iter().enumerate();
                let checked = checked.filter_map(|(index, value)| {
                    item.check(value, &At::join(at, At::Index(index)), secret, faults)
                });
                Value::Array(checked.collect())
            }
            (Self::Tables { fields, .. }, Value::Array(items)) => {
                let tables = items.into_iter().enumerate().filter_map(|(index, value)| {
                    let at = At::join(at, At::Index(index));
                    match value {
                        Value::Table(table) => {
                            Some(Value::Table(check_fields(fields, table, &at, secret, faults)))
                        }
                        other => {
                            let said =
                                format!("{}; a table is wanted: {}", called(&other, secret), example(fields));
                            faults.push(Fault::at(&at, said));
                            None
                        }
                    }
                });
                Value::Array(tables.collect())
            }
            (_, other) => return self.refuse(&other, at, secret, faults),
        };
        (faults.len() == before).then_some(checked)
    }

    fn refuse(&self, value: &Value, at: &[At], secret: bool, faults: &mut Vec<Fault>) -> Option<Value> {
        let wanted = match self {
            Self::Tables { fields, .. } => format!("a list of tables like [{}] is wanted", example(fields)),
            Self::Texts { each, .. } => format!("a list is wanted, each {}", each.said),
            Self::Choice(_) => format!("one of {self} is wanted, as text in quotes"),
            _ => format!("{self} is wanted"),
        };
        faults.push(Fault::at(at, format!("{}; {wanted}", called(value, secret))));
        None
    }
}

fn check_fields(
    fields: &[Field],
    table: toml::Table,
    at: &[At],
    secret: bool,
    faults: &mut Vec<Fault>,
) -> toml::Table {
    for field in fields.iter().filter(|field| field.needed && !table.contains_key(field.name)) {
        faults.push(Fault::at(at, format!("{} is missing: {}, {}", field.name, field.said, field.kind)));
    }
    let mut checked = toml::Table::new();
    for (name, value) in table {
        let at = At::join(at, At::Key(name.clone()));
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            let names = fields.iter().map(|field| field.name);
            let known = names.clone().collect::<Vec<_>>().join(", ");
            let near = crate::schema::nearest(&name, names);
            let way_out =
                near.map_or_else(|| format!("there are {known}"), |near| format!("did you mean {near}?"));
            faults.push(Fault::key(&at, "is no key here".to_owned()).way_out(way_out));
            continue;
        };
        if let Some(value) = field.kind.check(value, &at, secret, faults) {
            checked.insert(name, value);
        }
    }
    checked
}

/// Longest value repeated in a message.
const SHOWN: usize = 60;

fn shown(text: &str, secret: bool) -> String {
    if secret {
        return "(hidden)".to_owned();
    }
    let short: String = text.chars().take(SHOWN).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", short.escape_debug())
}

fn called(value: &Value, secret: bool) -> String {
    match value {
        _ if secret => "(hidden) does not fit".to_owned(),
        Value::String(text) => format!("{} does not fit", shown(text, secret)),
        Value::Integer(number) => format!("{number} does not fit"),
        Value::Float(number) => format!("{number} does not fit"),
        Value::Boolean(choice) => format!("{choice} does not fit"),
        Value::Datetime(date) => format!("{date}, a date, does not fit"),
        Value::Array(_) => "A list does not fit".to_owned(),
        Value::Table(_) => "A table does not fit".to_owned(),
    }
}

/// A table with the fields that have to be there.
fn example(fields: &[Field]) -> String {
    let value = |kind: &Kind| match kind {
        Kind::Bool => "true".to_owned(),
        Kind::Int { least, .. } => least.to_string(),
        Kind::Number { least, .. } => least.to_string(),
        Kind::Choice(names) => format!("\"{}\"", names.first().unwrap_or(&"")),
        Kind::Texts { .. } | Kind::Tables { .. } => "[]".to_owned(),
        Kind::Text(_) => "\"…\"".to_owned(),
    };
    let mut shown: Vec<String> = fields
        .iter()
        .filter(|field| field.needed)
        .map(|field| format!("{} = {}", field.name, value(&field.kind)))
        .collect();
    if shown.is_empty() {
        shown.extend(fields.first().map(|field| format!("{} = {}", field.name, value(&field.kind))));
    }
    format!("{{ {} }}", shown.join(", "))
}
