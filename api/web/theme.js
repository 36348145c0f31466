"use strict";
// The theme that this person chose, before anything is painted. None chosen: the system's light or dark.
try {
  const chosen = localStorage.getItem("lobservatory.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is refused: the system's colours.
}
