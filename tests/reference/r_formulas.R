# Design matrices of formulas by R: what model.matrix of R makes of each spelling, as columns and values.
# usage: Rscript r_formulas.R OUTDIR   (writes r_formulas.csv, the table, and r_formulas.json)
library(splines)
out <- commandArgs(TRUE)[1]
set.seed(4)
n <- 24
d <- data.frame(
  y = round(rnorm(n, 5), 3), z = round(rnorm(n), 3), x = round(rexp(n), 3), days = rep(0:7, 3),
  f = sample(c("u", "v", "w"), n, TRUE), a = rep(c("p", "q"), n / 2), dose = sample(c(1, 2, 4), n, TRUE),
  l = runif(n) > .4, yield = round(rexp(n), 3) + .1, Sepal.Length = round(runif(n, 1, 9), 3), g = rep(letters[1:6], each = 4))
write.csv(d, file.path(out, "r_formulas.csv"), row.names = FALSE, quote = FALSE)
d$f <- factor(d$f); d$a <- factor(d$a)
formulas <- c(
  "y ~ days + I(days^2)", "y ~ I(x^2) + I(days^3)", "y ~ I((days + 1)^-1)", "y ~ I(2^-x)", "y ~ I(days^2 * x - 1)",
  "y ~ (f + a + x)^2", "y ~ (f + a + x)^3", "y ~ x^2", "y ~ f %in% a", "y ~ x %in% f", "y ~ a + f %in% a", "y ~ a*f - a", "y ~ f:a",
  "y ~ I(days %% 3)", "y ~ I(days %/% 2)", "y ~ I(-days %% 4 * x)", "y ~ I(days * 2 %% 3)", "y ~ I(days %/% 2 %% 2)",
  "y ~ x - 1", "y ~ x + 0", "y ~ 0 + f", "y ~ -1 + f + a", "y ~ f - 1 + x", "y ~ 1", "y ~ f*a", "y ~ f/x", "y ~ f/a", "y ~ (f + a)/x", "y ~ x/f",
  "y ~ f:x", "y ~ x:z", "y ~ x*f", "y ~ 0 + f:a", "y ~ 0 + f:x",
  "y ~ factor(f)", "y ~ as.factor(f)", "y ~ factor(days)", "y ~ as.factor(dose) * x", "y ~ 0 + factor(dose)", "y ~ ordered(dose)", "y ~ 0 + ordered(dose)",
  "y ~ ordered(dose):x", "y ~ as.ordered(dose)", "y ~ factor(dose, levels = c(4, 1, 2))", "y ~ factor(dose, labels = c('lo', 'mid', 'hi'))",
  "y ~ as.numeric(f)", "y ~ as.integer(f) + as.numeric(l)", "y ~ as.integer(x)", "y ~ relevel(f, ref = 'w')", "y ~ relevel(factor(dose), ref = '2')",
  "y ~ interaction(f, a)", "y ~ sqrt(x)", "y ~ exp(z)", "y ~ log(x)", "y ~ log(x, 2)", "y ~ log(x, base = 10)", "y ~ log2(x) + log10(x) + log1p(x)",
  "y ~ abs(z) + sign(z)", "y ~ expm1(z) + floor(z) + ceiling(x) + trunc(z) + round(x, 1) + round(z)", "y ~ sin(2*pi*days/9) + cos(2*pi*days/9)",
  "y ~ scale(x)", "y ~ scale(days)", "y ~ scale(x, scale = FALSE)", "y ~ scale(x, center = FALSE)", "y ~ scale(x, TRUE, FALSE)", "y ~ poly(x, 2)", "y ~ poly(days, 3)", "y ~ poly(x, degree = 2, raw = TRUE)",
  "y ~ poly(x, 2, raw=T)", "y ~ f:poly(x, 2)", "y ~ bs(x, df = 5)", "y ~ bs(x, knots = c(.5, 1))", "y ~ splines::bs(x, 4)", "y ~ bs(x, df = 4, degree = 2)", "y ~ bs(x, df = 5, Boundary.knots = c(-1, 9))",
  "y ~ ns(x, df = 3)", "y ~ ns(x, 4)", "y ~ splines::ns(x, 2)", "y ~ ns(x, knots = c(.5, 1))", "y ~ ns(x, df = 4, intercept = TRUE)", "y ~ ns(x, df = 3, Boundary.knots = c(.2, 2))", "y ~ f*ns(x, df = 2)",
  "y ~ cut(x, 3)", "y ~ cut(days, breaks = c(0, 2, 5, 8), include.lowest = TRUE)", "y ~ cut(days, c(-1, 4, 8), labels = c('early', 'late'))", "y ~ cut(days, c(0, 4, 9), right = FALSE)",
  "y ~ ifelse(x > 1, z, 0)", "y ~ ifelse(x > 1 & z < 0, 'yes', 'no')", "y ~ ifelse(f == 'u', 1, 0)", "y ~ pmin(x, 1) + pmax(z, 0)",
  "y ~ I(x > 1)", "y ~ 0 + I(x > 1)", "y ~ I(x > 1):z", "y ~ I((x > 1) | (z < 0))", "y ~ I(x > 1 & z < 0)", "y ~ I(!l)", "y ~ I(x * l)", "y ~ I(f == 'u') * x", "y ~ I(f %in% c('u', 'w'))", "y ~ I(days %in% c(1, 2, 3))",
  "y ~ l", "y ~ 0 + l", "y ~ l:x", "y ~ l*x", "y ~ 0 + l:x", "y ~ l:f", "y ~ as.numeric(x > 1)",
  "y ~ log(yield)", "y ~ I(yield^2) + yield", "y ~ log(Sepal.Length) + Sepal.Length", "y ~ C(f, contr.sum)", "y ~ C(f, contr.helmert)", "y ~ C(f, contr.treatment)", "y ~ C(factor(dose), contr.poly)",
  "I(y/1000) ~ x", "log(y) ~ x", "y/1000 ~ x", "y - z ~ x", "2*y ~ x", "y^2 ~ x", "sqrt(y + 10) ~ x", "-y ~ x", "log(yield) ~ .", "y ~ . - g", "y ~ .", "scale(y) ~ x",
  "y ~ x + I(x^2) + f:I(x^2)", "y ~ f + f:x + f:I(x^2) - 1", "y ~ plogis(z)", "y ~ I(1/(x + 1))", "y ~ x + I(-x^2)", "y ~ I(x - -z)", "y ~ exp(-x)", "y ~ I(1e-3 * days + 2L)",
  "y ~ I(l + (x > 1))", "y ~ I((x > 1) - (z > 0))", "y ~ I(-(x > 1) * z)", "y ~ I(x * (-l))", "y ~ 0 + I(-l)", "y ~ I(l + l)",
  "y ~ I(!l * x)", "y ~ I(!(x > 1) + z > 0)", "y ~ I(T * x)", "y ~ I((days %in% c(1, 2)) * x)", "y ~ I(days & l)", "y ~ I(2^-days)",
  "y ~ I((days + 1)^-days)", "y ~ pmax(x, z, 1)", "y ~ pmin(x, z, days)", "y ~ as.numeric(as.character(factor(dose)))", "y ~ as.integer(as.character(dose))", "y ~ as.numeric(factor(f)) + as.numeric(factor(dose))",
  "y ~ as.character(dose)", "y ~ factor(f, labels = 'L')", "y ~ factor(dose, ordered = TRUE)", "y ~ interaction(f, a, sep = '_')", "y ~ poly(x, 2, simple = TRUE)", "y ~ C(f, contr.sum(3))",
  "y ~ C(f, contr.poly(3))", "y ~ C(f, contr.treatment(n = 3))", "y ~ C(f, contr.treatment(3, base = 2))", "y ~ C(f, contr.treatment(3, 3))", "y ~ C(f, contr.treatment, base = 2)", "y ~ C(f, sum)",
  "y ~ C(f, helmert)", "y ~ C(factor(dose), contr.treatment(3))", "y ~ C(f, contr.SAS)", "y ~ as.numeric(l) + as.numeric(I(x > 1))")
num <- function(v) ifelse(is.finite(v), formatC(v, digits = 11, format = "g"), "null")
vec <- function(v) paste0("[", paste(num(as.numeric(v)), collapse = ", "), "]")
rows <- vapply(formulas, function(text) {
  frame <- model.frame(as.formula(text), d)
  X <- model.matrix(terms(frame), frame)
  y <- model.response(frame)
  ok <- rowSums(!is.finite(X)) == 0
  sprintf('{"formula": %s, "rows": %s, "columns": [%s], "y": %s, "X": [%s]}', deparse(text), vec(as.integer(rownames(X))[ok] - 1),
          paste(vapply(colnames(X), deparse, ""), collapse = ", "), vec(y[ok]), paste(apply(X[ok, , drop = FALSE], 2, vec), collapse = ", "))
}, "")
writeLines(c("[", paste(rows, collapse = ",\n"), "]"), file.path(out, "r_formulas.json"))
