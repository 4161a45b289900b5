//! A configuration as a text for people: every value, and who set it. Secrets are not shown.

use std::fmt::Write as _;

use toml::Value;

use crate::layer::Layer;
use crate::resolve::Resolved;
use crate::schema::Schema;

impl Resolved {
    /// In the form of `mote.toml`, sections in the schema's order; what is not built in with the layer it comes from.
    pub fn show(&self, schema: Schema) -> String {
        let mut text = String::new();
        let mut current = "";
        for key in schema.0 {
            let Some(setting) = self.get(key.path) else { continue };
            let (section, name) = key.parts();
            if section != current {
                let gap = if current.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{section}]");
                current = section;
            }
            let hidden = Value::String("(hidden)".to_owned());
            let value = if key.secret { &hidden } else { &setting.value };
            let _ = match setting.layer {
                Layer::BuiltIn => writeln!(text, "{name} = {value}"),
                layer => writeln!(text, "{name} = {value} # {layer}"),
            };
        }
        text
    }
}
