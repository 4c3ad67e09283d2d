//! What is legal in a file and may not be meant: rules that can never match, allowances that a deny takes back.

use crate::rule::{Effect, Rule, Subject};
use crate::{Rules, Selection, Warning};

/// Everything that looks wrong, by line. Rules are compared two by two within one user or role.
pub fn lint(rules: &Rules) -> Vec<Warning> {
    let mut warnings = rules.warnings.clone();
    for (place, rule) in rules.rules.iter().enumerate() {
        let mut warn = |text: String| {
            warnings.push(Warning {
                line: rule.line,
                text,
            });
        };
        if rule.filter.starts_with("$share/") {
            warn(format!(
                "{rule}: never matches: of a shared subscription the filter behind the share name counts."
            ));
        }
        let is_topic = !matches!(rule.subject, Subject::Everybody | Subject::Role(_));
        if is_topic && (rule.filter.contains("%u") || rule.filter.contains("%c")) {
            warn(format!(
                "{rule}: %u and %c stand for names in 'pattern' lines only; here they are themselves."
            ));
        }
        if rule.effect == Effect::Deny {
            continue;
        }
        if let Some(deny) = rules.rules.iter().find(|deny| {
            deny.effect == Effect::Deny
                && deny.subject == rule.subject
                && deny.actions.overlaps(rule.actions)
                && deny.covers(rule)
        }) {
            let takes_all = rule.actions.is_within(deny.actions);
            warn(format!(
                "{rule}: {} matches: line {} denies {}, and a deny comes before every allow.",
                if takes_all { "never" } else { "not always" },
                deny.line,
                deny.filter
            ));
        } else if let Some(before) = rules.rules.iter().take(place).find(|before| {
            before.effect == Effect::Allow
                && before.subject == rule.subject
                && rule.actions.is_within(before.actions)
                && before.covers(rule)
        }) {
            warn(format!(
                "{rule}: changes nothing: line {} allows it already.",
                before.line
            ));
        }
    }
    unassigned(rules, &mut warnings);
    warnings.sort_by_key(|warning| warning.line);
    warnings
}

/// Roles that nobody has.
fn unassigned(rules: &Rules, warnings: &mut Vec<Warning>) {
    let Selection::Native { assignments } = &rules.selection else {
        return;
    };
    let mut last: Option<&Rule> = None;
    for rule in &rules.rules {
        let Subject::Role(role) = &rule.subject else {
            continue;
        };
        let is_told = last.is_some_and(|last| last.subject == rule.subject);
        let is_assigned = assignments
            .iter()
            .any(|assignment| assignment.roles.iter().any(|(_, name)| name == role));
        if !is_told && !is_assigned {
            warnings.push(Warning {
                line: rule.line,
                text: format!("role {}: nobody has it.", role.escape_debug()),
            });
        }
        last = Some(rule);
    }
}
