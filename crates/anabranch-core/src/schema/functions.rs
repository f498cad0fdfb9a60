//! Functions that the application registers: policies and checks of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::policy::{Policy, Settle};
use super::rules::Check;
use super::{Schema, SchemaError};
use crate::document::Contender;

/// The functions that a schema names.
#[derive(Clone, Default)]
pub struct Functions {
    policies: BTreeMap<(String, u32), Arc<Settle>>,
    checks: BTreeMap<String, Arc<Check>>,
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions")
            .field("policies", &self.policies.keys())
            .field("checks", &self.checks.keys())
            .finish()
    }
}

impl Functions {
    /// Adds the function behind `policy = { custom = name, version = version }`. It must be pure: every replica
    /// must come to the same value from the same contenders.
    pub fn policy(
        &mut self,
        name: &str,
        version: u32,
        settle: impl Fn(&[Contender]) -> Value + Send + Sync + 'static,
    ) -> &mut Self {
        self.policies.insert((name.to_owned(), version), Arc::new(settle));
        self
    }

    /// Adds the function behind `check = name`. It gets the field's value and all fields, and says what is wrong.
    pub fn check(
        &mut self,
        name: &str,
        check: impl Fn(&Value, &Map<String, Value>) -> Result<(), String> + Send + Sync + 'static,
    ) -> &mut Self {
        self.checks.insert(name.to_owned(), Arc::new(check));
        self
    }
}

impl Schema {
    /// Joins the schema with the functions that it names.
    ///
    /// # Errors
    /// [`SchemaError::Unregistered`] if one is missing.
    pub fn bind(&mut self, functions: &Functions) -> Result<(), SchemaError> {
        for (name, collection) in &mut self.collections {
            if let Some(policy) = &mut collection.policy {
                functions.bind_policy(policy, || name.to_string())?;
            }
            for (field_name, field) in &mut collection.fields {
                let place = || format!("{name}.{field_name}");
                if let Some(policy) = &mut field.policy {
                    functions.bind_policy(policy, place)?;
                }
                if let Some(check) = &mut field.rules.check {
                    let missing = || SchemaError::Unregistered(format!("the check {:?} of {}", check.name(), place()));
                    let function = functions.checks.get(check.name()).cloned().ok_or_else(missing)?;
                    check.bind(function);
                }
            }
        }
        Ok(())
    }
}

impl Functions {
    fn bind_policy(&self, policy: &mut Policy, place: impl Fn() -> String) -> Result<(), SchemaError> {
        let Policy::Custom(custom) = policy else { return Ok(()) };
        let key = (custom.name().to_owned(), custom.version());
        let missing = || SchemaError::Unregistered(format!("the policy {custom:?} of {}", place()));
        let function = self.policies.get(&key).cloned().ok_or_else(missing)?;
        custom.bind(function);
        Ok(())
    }
}
