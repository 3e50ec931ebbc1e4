# Fits a table as often as a line comes in: Rscript lme4.R TABLE FORMULA REML
suppressMessages(library(lme4))
said <- commandArgs(TRUE)
table <- read.csv(said[1], stringsAsFactors = TRUE)
formula <- as.formula(said[2])
lines <- file("stdin", "r")
repeat {
  cat("ready\n")
  flush(stdout())
  if (length(readLines(lines, 1)) == 0) break
  fit <- lmer(formula, table, REML = said[3] == "REML")
  found <- as.data.frame(VarCorr(fit))
  cat(paste(found$grp, found$var1, found$var2, sprintf("%.12g", found$vcov), sep = ","), "\n")
}
