//! `docs/api-reference.md`: the HTTP API's OpenAPI description in readable form.
//!
//! It supports the part of OpenAPI that this API's description uses, and prints anything else as JSON, which a test
//! detects.

use super::heading::head;
use serde_json::{Map, Value};

/// The page.
pub(super) fn page(document: &Value) -> String {
    let mut text = head("HTTP API: routes and types");
    text.push_str(
        r"
[api.md](api.md) describes addresses, authentication and event streams; [openapi.json](openapi.json) has the same in machine-readable
form. The error of any route is a [`Report`](#report), under the status of its [kind](errors.md).
",
    );
    for (path, operations) in entries(&document["paths"]) {
        for (method, operation) in entries(operations) {
            text.push_str(&route(path, method, operation));
        }
    }
    text.push_str("\n## Types\n");
    for (name, schema) in entries(&document["components"]["schemas"]) {
        text.push_str(&format!("\n### {name}\n\n{}\n{}", prose(schema), body(schema)));
    }
    text
}

fn route(path: &str, method: &str, operation: &Value) -> String {
    let mut text = format!("\n## `{} {path}`\n\n{}.", method.to_uppercase(), string(operation, "summary"));
    let more = prose(operation);
    let more = if more.is_empty() { String::new() } else { format!(" {more}") };
    text.push_str(&format!("{more}\n\n"));
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let optional = parameter["required"] != true;
        let place = format!("{} `{}`", string(parameter, "in"), string(parameter, "name"));
        text.push_str(&item(&place, &kind(&parameter["schema"]), optional, &prose(parameter)));
    }
    for (media, content) in entries(&operation["requestBody"]["content"]) {
        text.push_str(&item("body", &typed(media, &content["schema"]), false, &prose(&operation["requestBody"])));
    }
    for (status, response) in entries(&operation["responses"]).filter(|(status, _)| *status != "default") {
        let mut contents = entries(&response["content"]).map(|(media, content)| typed(media, &content["schema"]));
        text.push_str(&item(
            &format!("answer {status}"),
            &contents.next().unwrap_or_default(),
            false,
            &prose(response),
        ));
    }
    text
}

/// A body's type. The media type is omitted for JSON.
fn typed(media: &str, schema: &Value) -> String {
    match (media, &schema["type"]) {
        ("application/json", _) => kind(schema),
        (media, Value::String(text)) if text == "string" => format!("`{media}`"),
        (media, _) => format!("`{media}` of {}", kind(schema)),
    }
}

/// The fields or variants of a type.
fn body(schema: &Value) -> String {
    if let Some(variants) = schema["oneOf"].as_array() {
        let each = variants.iter().map(|variant| {
            let name = tag(variant).map_or_else(|| kind(variant), |(_, value)| format!("`{value}`"));
            format!("\n**{name}**: {}\n{}", prose(variant), body(variant))
        });
        let by =
            variants.iter().find_map(tag).map_or(String::new(), |(field, _)| format!(", distinguished by `{field}`"));
        return format!("\nOne of{by}:\n{}", each.collect::<String>());
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let own = parts.iter().filter(|part| part.get("$ref").is_none()).map(body);
        let others = parts.iter().filter(|part| part.get("$ref").is_some());
        let others: String = others.map(|part| format!("\nHas the fields of {}.\n", kind(part))).collect();
        return others + &own.collect::<String>();
    }
    if schema.get("properties").is_none() {
        return format!("\n* {}\n", kind(schema));
    }
    let required = |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    let fields: String = entries(&schema["properties"])
        .filter(|(name, _)| tag(schema).is_none_or(|(field, _)| field != *name))
        .map(|(name, field)| item(&format!("`{name}`"), &kind(field), !required(name), &prose(field)))
        .collect();
    if fields.is_empty() { fields } else { format!("\n{fields}") }
}

/// The field that identifies the variant, and its value.
fn tag(variant: &Value) -> Option<(&str, &str)> {
    let own = entries(&variant["properties"]).find_map(|(name, field)| match field["enum"].as_array()?.as_slice() {
        [Value::String(only)] => Some((name, only.as_str())),
        _ => None,
    });
    own.or_else(|| variant["allOf"].as_array()?.iter().find_map(tag))
}

/// A short description of a type.
fn kind(schema: &Value) -> String {
    let Some(fields) = schema.as_object() else { return "anything".to_owned() };
    if let Some(name) = fields.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()) {
        return format!("[`{name}`](#{})", name.to_lowercase());
    }
    if let Some(choices) = fields.get("enum").and_then(Value::as_array) {
        return choices
            .iter()
            .map(|choice| format!("`{}`", choice.as_str().unwrap_or("null")))
            .collect::<Vec<_>>()
            .join(", ");
    }
    if let Some(choices) = fields.get("oneOf").and_then(Value::as_array) {
        return choices.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    match fields.get("type") {
        Some(Value::String(name)) => plain(name, fields),
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).map(|name| plain(name, fields)).collect::<Vec<_>>().join(" or ")
        }
        _ if fields.keys().all(|key| key == "description") => "anything".to_owned(),
        _ => format!("`{schema}`"),
    }
}

fn plain(name: &str, fields: &Map<String, Value>) -> String {
    match (name, fields.get("items"), fields.get("additionalProperties"), fields.get("pattern")) {
        ("array", Some(items), ..) => format!("list of {}", kind(items)),
        ("object", _, Some(values @ Value::Object(_)), _) => format!("object whose values are {}", kind(values)),
        ("string", _, _, Some(pattern)) => format!("string like `{}`", pattern.as_str().unwrap_or_default()),
        _ => name.to_owned(),
    }
}

/// A schema's description, or else that of its first alternative.
fn prose(of: &Value) -> String {
    let own = of["description"].as_str();
    let text = own.or_else(|| of["oneOf"].as_array()?.first()?["description"].as_str()).unwrap_or_default();
    // Removes the brackets of rustdoc's links.
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace("[`", "`").replace("`]", "`")
}

fn item(name: &str, kind: &str, optional: bool, about: &str) -> String {
    let optional = if optional { "optional" } else { "" };
    let details: Vec<&str> = [kind, optional].into_iter().filter(|detail| !detail.is_empty()).collect();
    let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
    let about = if about.is_empty() { String::new() } else { format!(": {about}") };
    format!("* {name}{details}{about}\n")
}

fn string<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

fn entries(of: &Value) -> impl Iterator<Item = (&str, &Value)> {
    of.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dvn_http::router;

    #[test]
    fn everything_in_the_description_is_supported() {
        let text = page(&router::description());
        let unknown: Vec<&str> = text.lines().filter(|line| line.contains("`{\"")).collect();
        assert!(unknown.is_empty(), "{unknown:#?}");
        assert!(kind(&serde_json::json!({"anyOf": []})).contains("`{\""));
    }
}
