// The admin's key, as this tab has it: in memory, or for as long as the tab is there where its user wants that. A link may
// bring it behind the `#`, which no server sees; it is taken out of the address at once.

const NAME = 'fairlead.admin-key';

export function readKey() {
  const key = new URLSearchParams(location.hash.slice(1)).get('key');
  if (key !== null) history.replaceState(null, '', location.pathname + location.search);
  return key || stored()?.getItem(NAME) || '';
}

export function keepKey(key, isToStay) {
  if (isToStay) stored()?.setItem(NAME, key);
  else stored()?.removeItem(NAME);
}

/** A browser may be told to keep nothing. */
function stored() {
  try {
    return sessionStorage;
  } catch {
    return undefined;
  }
}
