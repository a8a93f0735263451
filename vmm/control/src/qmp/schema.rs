//! `query-qmp-schema`: the commands and events as data (QEMU's manual, "QAPI code generator", "Client JSON Protocol
//! introspection"). Answers are of type `any`: they carry what clients expect, and clients find out by asking.

use super::commands::{COMMANDS, Type};
use crate::vm::EVENT_NAMES;
use serde_json::{Value, json};

/// Name of the object without members.
const NONE: &str = "0";

pub(super) fn schema() -> Value {
    let builtin =
        |name: &str, json_type: &str| json!({"name": name, "meta-type": "builtin", "json-type": json_type});
    let mut all = vec![
        builtin("any", "value"),
        builtin("str", "string"),
        builtin("int", "int"),
        builtin("bool", "boolean"),
        json!({"name": "[any]", "meta-type": "array", "element-type": "any"}),
        json!({"name": NONE, "meta-type": "object", "members": []}),
    ];
    for c in COMMANDS {
        let members: Vec<Value> = c
            .arguments
            .iter()
            .filter(|a| a.kind != Type::Rest)
            .map(|a| {
                let kind = match a.kind {
                    Type::Text => "str",
                    Type::Number => "int",
                    Type::Bool => "bool",
                    Type::List => "[any]",
                    Type::Any | Type::Rest => "any",
                };
                let mut v = json!({"name": a.name, "type": kind});
                if !a.required {
                    v["default"] = Value::Null;
                }
                v
            })
            .collect();
        let mut argument = NONE.to_owned();
        if !members.is_empty() {
            argument = format!("{}-arg", c.name);
            all.push(json!({"name": argument, "meta-type": "object", "members": members}));
        }
        all.push(json!({"name": c.name, "meta-type": "command", "arg-type": argument, "ret-type": "any"}));
    }
    all.extend(EVENT_NAMES.iter().map(|n| json!({"name": n, "meta-type": "event", "arg-type": NONE})));
    all.into()
}
