# Variances of random effects given y and β, and predictions without random effects and of new levels, by lme4.
# usage: Rscript make_conditional.R > conditional_lme4.json
suppressMessages(library(lme4))
num <- function(x) paste0("[", paste(formatC(as.numeric(x), digits = 15, format = "g"), collapse = ", "), "]")
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhobeg = 0.1, rhoend = 1e-10, maxfun = 1e6))
models <- list(
  list("sleepstudy", sleepstudy, "Reaction ~ Days + (Days | Subject)", data.frame(Days = c(0, 4, 12.5))),
  list("sleepstudy", sleepstudy, "Reaction ~ Days + (Days || Subject)", data.frame(Days = c(0, 4, 12.5))),
  list("sleepstudy", sleepstudy, "Reaction ~ Days + (1 | Subject)", data.frame(Days = c(0, 4, 12.5))),
  list("penicillin", Penicillin, "diameter ~ 1 + (1 | plate) + (1 | sample)", data.frame(nothing = 0)),
  list("dyestuff", Dyestuff, "Yield ~ 1 + (1 | Batch)", data.frame(nothing = 0))
)
rows <- c()
for (m in models) {
  fit <- lmer(as.formula(m[[3]]), m[[2]], control = control)
  effects <- ranef(fit, condVar = TRUE)
  parts <- c()
  for (g in names(effects)) {
    v <- attr(effects[[g]], "postVar")
    columns <- if (is.list(v)) sapply(v, function(p) p[1, 1, ]) else t(apply(v, 3, diag))
    if (!is.list(v) && dim(v)[1] == 1) columns <- matrix(v[1, 1, ], ncol = 1)
    parts <- c(parts, sprintf('"%s": {"levels": ["%s"], "variance": [%s]}', g,
      paste(rownames(effects[[g]]), collapse = '", "'), paste(apply(columns, 2, num), collapse = ", ")))
  }
  new <- m[[4]]
  mean <- predict(fit, newdata = new, re.form = NA)
  X <- model.matrix(delete.response(terms(fit, fixed.only = TRUE)), new)
  se <- sqrt(diag(X %*% as.matrix(vcov(fit)) %*% t(X)))
  rows <- c(rows, sprintf('  {"data": "%s", "formula": "%s", "software": "lme4 %s", "condvar": {%s}, "days": %s, "population": %s, "population_se": %s}',
    m[[1]], m[[3]], packageVersion("lme4"), paste(parts, collapse = ", "),
    if (is.null(new$Days)) "[]" else num(new$Days), num(mean), num(se)))
}
cat("[\n", paste(rows, collapse = ",\n"), "\n]\n", sep = "")
