//! Results as JUnit's XML, which every CI system reads.

use std::fmt::Write as _;

use super::CaseResult;

/// Results by file, as one document. Times are not measured: a test takes microseconds, and the output is the same every time.
pub fn junit(files: &[(String, Vec<CaseResult>)]) -> String {
    let all = || files.iter().flat_map(|(_, results)| results);
    let failed = all().filter(|result| !result.passed()).count();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuites name=\"lateen test\" tests=\"{}\" failures=\"{failed}\">",
        all().count()
    );
    for (file, results) in files {
        let failed = results.iter().filter(|result| !result.passed()).count();
        let _ = writeln!(
            out,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\">",
            escaped(file),
            results.len()
        );
        for result in results {
            case(&mut out, file, result);
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn case(out: &mut String, file: &str, result: &CaseResult) {
    let _ = write!(
        out,
        "    <testcase name=\"{}\" classname=\"{}\" file=\"{}\" line=\"{}\"",
        escaped(&result.name),
        escaped(file),
        escaped(&result.source.file),
        result.source.line
    );
    if result.passed() {
        out.push_str("/>\n");
        return;
    }
    out.push_str(">\n");
    for failure in &result.failures {
        let _ = writeln!(
            out,
            "      <failure message=\"{}\">{}:{}</failure>",
            escaped(&failure.message),
            escaped(&failure.source.file),
            failure.source.line
        );
    }
    out.push_str("    </testcase>\n");
}

/// Text for XML; characters that XML cannot hold become question marks.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push(letter),
            _ if letter.is_control() => out.push('?'),
            _ => out.push(letter),
        }
    }
    out
}
