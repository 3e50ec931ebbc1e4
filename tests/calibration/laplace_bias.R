# Penalised quasi-likelihood of the data sets that laplace_bias.py draws: MASS::glmmPQL with the dispersion held at 1.
#
#   Rscript laplace_bias.R DATA.csv
#
# DATA.csv has a row for each level of each data set (set, family, level, records, total); the variance of each data set
# comes back as a line "set variance".
suppressMessages(library(nlme))
data <- read.csv(commandArgs(TRUE)[1])
# glmmPQL evaluates its arguments in a frame of its own: they are given as values
pql <- function(formula, family, data) do.call(MASS::glmmPQL, list(
  formula, random = ~ 1 | level, family = family, data = data, niter = 50, verbose = FALSE,
  control = lmeControl(returnObject = TRUE, sigma = 1)))
for (own in split(data, data$set)) {
  own$level <- factor(own$level)
  fit <- try(suppressWarnings(
    if (own$family[1] == "poisson") pql(total ~ 1, poisson, own)  # the records are a part of the intercept
    else pql(cbind(total, records - total) ~ 1, binomial, own)), silent = TRUE)
  variance <- if (inherits(fit, "try-error")) NA else as.numeric(VarCorr(fit)[1, 1])
  cat(own$set[1], format(variance, digits = 8), "\n")
}
