//! Schemas at random: all kinds, all policies, rules, references, and a second version of each.

use anabranch_core::{Functions, Schema};
use anabranch_sim::Dice;
use serde_json::Value;

const POLICIES: [&str; 7] = [
    "\"lww\"",
    "\"first_writer\"",
    "\"causal\"",
    "\"max\"",
    "\"min\"",
    "\"manual\"",
    "{ custom = \"all\", version = 1 }",
];

/// Rules that the values which people write break now and then. References have none: whoever creates the first
/// entity has nothing to refer to.
const RULES: [(&str, &[&str]); 6] = [
    (
        "register",
        &[
            ", type = \"integer\"",
            ", min = 0, max = 9",
            ", max_length = 4",
            ", pattern = \"[a-z]*\"",
            ", one_of = [1, 2, \"word\"]",
            ", required = true",
            ", check = \"even\"",
        ],
    ),
    ("text", &[", max_length = 8", ", pattern = \"[^!]*\""]),
    ("counter", &[", max = 6", ", min = -4"]),
    ("set", &[", max_length = 2", ", min_length = 1"]),
    ("list", &[", max_length = 2", ", min_length = 1"]),
    ("map", &[", max_length = 2", ", min_length = 1"]),
];

/// What the schemas name.
pub(crate) fn functions() -> Functions {
    let mut functions = Functions::default();
    functions.policy("all", 1, |all| Value::from(all.iter().map(|one| one.value.to_string()).collect::<String>()));
    functions.check("even", |value, _| match value.as_i64() {
        Some(number) if number % 2 != 0 => Err("it is odd".to_owned()),
        _ => Ok(()),
    });
    functions
}

/// Two versions of one schema.
pub(crate) fn draw(dice: &mut Dice) -> [Schema; 2] {
    let first = Draft::draw(dice);
    let second = first.clone().upgraded(dice);
    [first.read(1), second.read(2)]
}

#[derive(Clone, Debug)]
struct Draft {
    deletion: [&'static str; 2],
    policy: String,
    /// Name, kind and the rest, in TOML.
    fields: Vec<(String, &'static str, String)>,
}

impl Draft {
    fn draw(dice: &mut Dice) -> Self {
        let deletion = [(); 2].map(|()| ["edit_wins", "delete_wins"][dice.below(2)]);
        let policy = if dice.once_in(2) { format!("policy = {}\n", one_policy(dice, 7)) } else { String::new() };
        let parent = dice.below(3);
        let mut fields = Vec::new();
        for (name, kind) in [
            ("a", "register"),
            ("b", "register"),
            ("up", "reference"),
            ("folder", "reference"),
            ("body", "text"),
            ("votes", "counter"),
            ("tags", "set"),
            ("steps", "list"),
            ("facts", "map"),
        ] {
            let mut rest = String::new();
            match kind {
                "register" | "reference" if dice.once_in(2) => rest += &format!(", policy = {}", one_policy(dice, 7)),
                "list" | "map" if dice.once_in(2) => rest += &format!(", policy = {}", one_policy(dice, 6)),
                _ => {}
            }
            if dice.once_in(2) {
                rest += rule(dice, kind);
            }
            if kind == "reference" {
                let on_delete = ["keep", "restrict", "cascade", "nullify"][dice.below(4)];
                let (to, is_parent) = if name == "up" { ("items", parent == 0) } else { ("folders", parent == 1) };
                rest += &format!(", to = \"{to}\", on_delete = \"{on_delete}\", parent = {is_parent}");
            }
            fields.push((name.to_owned(), kind, rest));
        }
        Self { deletion, policy, fields }
    }

    /// The next version: new fields, and now and then other names, policies, rules and lenses.
    fn upgraded(mut self, dice: &mut Dice) -> Self {
        if dice.once_in(4) {
            self.deletion.swap(0, 1);
        }
        for (name, kind, rest) in &mut self.fields {
            if dice.once_in(4) {
                *rest += &format!(", key = \"{name}\"");
                *name = format!("new_{name}");
            }
            // What a lens reads must keep the field's own rules.
            let has_rules = RULES.iter().any(|(of, rules)| of == kind && rules.iter().any(|rule| rest.contains(rule)));
            if *kind == "register" && !has_rules && dice.once_in(4) {
                *rest += ", lens = { map = { word = 4 }, otherwise = 1 }, type = \"integer\"";
            }
        }
        for (name, kind) in [("late", "register"), ("notes", "text"), ("count", "counter"), ("labels", "set")] {
            let rest = if kind == "register" && dice.once_in(2) { ", default = 2" } else { "" };
            self.fields.push((name.to_owned(), kind, rest.to_owned()));
        }
        self
    }

    fn read(&self, version: u32) -> Schema {
        let mut text = format!(
            "version = {version}\n[collections.folders]\ndeletion = \"{}\"\n[collections.folders.fields]\n\
             a = {{ kind = \"register\" }}\nbody = {{ kind = \"text\" }}\n\
             [collections.items]\ndeletion = \"{}\"\n{}[collections.items.fields]\n",
            self.deletion[0], self.deletion[1], self.policy
        );
        for (name, kind, rest) in &self.fields {
            text += &format!("{name} = {{ kind = \"{kind}\"{rest} }}\n");
        }
        if version > 1 {
            text += "[collections.extras.fields]\na = { kind = \"register\" }\nvotes = { kind = \"counter\" }\n";
        }
        Schema::from_toml(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

fn one_policy(dice: &mut Dice, count: usize) -> &'static str {
    POLICIES[dice.below(count)]
}

fn rule(dice: &mut Dice, kind: &str) -> &'static str {
    let rules = RULES.iter().find(|(of, _)| *of == kind).map_or(&[""][..], |(_, rules)| rules);
    rules[dice.below(rules.len())]
}
