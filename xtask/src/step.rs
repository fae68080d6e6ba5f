//! Steps, and which of them were asked for.

use crate::context::Context;
use crate::outcome::Outcome;

/// One step.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn(&Context) -> Result<Outcome, String>,
}

/// The steps that `--only` and `--skip` leave, in their own order.
pub(crate) fn select(
    steps: &'static [Step],
    options: &[&str],
) -> Result<Vec<&'static Step>, String> {
    let mut selected: Vec<&'static Step> = steps.iter().collect();
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let names: Vec<&str> =
            rest.next().ok_or(format!("{option} needs a list of steps"))?.split(',').collect();
        if let Some(unknown) =
            names.iter().find(|name| steps.iter().all(|step| step.name != **name))
        {
            return Err(format!("there is no step `{unknown}`; cargo xtask steps lists them"));
        }
        match *option {
            "--only" => selected.retain(|step| names.contains(&step.name)),
            "--skip" => selected.retain(|step| !names.contains(&step.name)),
            other => return Err(format!("`{other}` is not an option")),
        }
    }
    if selected.is_empty() { Err("no step is left to run".into()) } else { Ok(selected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &Context) -> Result<Outcome, String> {
        Ok(Outcome::Passed)
    }

    #[test]
    fn steps_are_chosen_by_name_in_their_own_order() {
        static STEPS: [Step; 3] = [
            Step { name: "a", what: "", run: nothing },
            Step { name: "b", what: "", run: nothing },
            Step { name: "c", what: "", run: nothing },
        ];
        let names = |options: &[&str]| {
            let selected = select(&STEPS, options)?;
            Ok(selected.iter().map(|step| step.name).collect::<String>())
        };
        assert_eq!(names(&["--only", "c,a"]), Ok("ac".to_owned()));
        assert_eq!(names(&["--skip", "b"]), Ok("ac".to_owned()));
        assert_eq!(
            names(&["--only", "a", "--skip", "a"]),
            Err("no step is left to run".to_owned())
        );
        assert!(names(&["--only", "d"]).is_err_and(|why| why.contains("`d`")));
    }
}
