//! What the programs print: the shapes that others read are checked here.

use serde_json::Value;

/// The benchmarks' rows: an array of objects with exactly these keys. Answers how many there are
/// and which goals were missed.
///
/// A missed goal fails nothing: figures of a shared machine are reported, never tested.
pub(crate) fn bench_rows(text: &str) -> Result<(usize, Vec<String>), String> {
    const KEYS: [&str; 7] = ["baseline", "case", "goal", "met", "ratio", "unit", "value"];
    let value: Value = serde_json::from_str(text)
        .map_err(|e| format!("the benchmarks' output is not JSON: {e}"))?;
    let rows = value.as_array().ok_or("the benchmarks' output is not an array")?;
    if rows.is_empty() {
        return Err("the benchmarks measured nothing".to_owned());
    }
    let mut missed = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let object = row.as_object().ok_or(format!("row {number} is not an object"))?;
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        if keys != KEYS {
            return Err(format!("row {number} has the keys {keys:?}, not {KEYS:?}"));
        }
        let case = row["case"].as_str().ok_or(format!("row {number}: case is not a string"))?;
        if !row["unit"].is_string() {
            return Err(format!("{case}: unit is not a string"));
        }
        for key in ["value", "baseline", "ratio"] {
            if !(row[key].is_number() || row[key].is_null()) {
                return Err(format!("{case}: {key} is neither a number nor null"));
            }
        }
        if row["met"] == Value::Bool(false) {
            let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
            let unit = row["unit"].as_str().unwrap_or("");
            missed.push(format!(
                "{case}: {:.1} {unit}, ratio {:.2}, goal {}",
                number("value"),
                number("ratio"),
                row["goal"]
            ));
        }
    }
    Ok((rows.len(), missed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_one_of_its_keys_is_refused() {
        let good = r#"[{"case":"a","unit":"ns","value":1.0,"baseline":2,
            "ratio":null,"goal":">= 0.9","met":false}]"#;
        assert_eq!(bench_rows(good).map(|(rows, missed)| (rows, missed.len())), Ok((1, 1)));
        assert!(bench_rows(&good.replace("\"unit\":\"ns\",", "")).is_err());
        assert!(bench_rows(&good.replace("1.0", "\"fast\"")).is_err());
        assert!(bench_rows("[]").is_err());
    }
}
