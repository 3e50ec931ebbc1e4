# Times of glmer (Debian r-cran-lme4) for generalised linear mixed models of tests/reference, each fitted several times.
#
#   Rscript glmer.R TABLES [TIMES]
#
# prints a line for each model: its name, CPU seconds of the quickest fit, the log-likelihood.
suppressMessages(library(lme4))
said <- commandArgs(TRUE)
table <- function(name) read.csv(file.path(said[1], name), stringsAsFactors = TRUE)
times <- if (length(said) > 1) as.integer(said[2]) else 5
models <- list(
  cbpp_logit = list(cbind(incidence, size - incidence) ~ factor(period) + (1 | herd), "cbpp.csv", binomial),
  grouseticks = list(TICKS ~ factor(YEAR) + scale(HEIGHT) + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION),
                     "grouseticks.csv", poisson),
  contraception_logit = list(use ~ age + I(age^2) + urban + livch + (1 | district), "contraception.csv", binomial),
  contraception_slope_logit = list(use ~ age + I(age^2) + urban + livch + (1 + urban | district), "contraception.csv",
                                   binomial))
for (name in names(models)) {
  model <- models[[name]]; data <- table(model[[2]])
  seconds <- Inf
  for (i in seq_len(times)) {
    taken <- system.time(fit <- suppressMessages(suppressWarnings(glmer(model[[1]], data, model[[3]]))))
    seconds <- min(seconds, sum(taken[c("user.self", "sys.self")]))
  }
  cat(name, seconds, format(as.numeric(logLik(fit)), digits = 10), "\n")
}
