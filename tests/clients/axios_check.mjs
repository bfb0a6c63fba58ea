// The eight calls of a desktop app's Salesforce skills, as such skills make them: axios with nothing but a default header.
// Prints one JSON object: call -> data, or {error}.
import { createRequire } from 'node:module';

const require = createRequire(process.env.AXIOS_FOLDER + '/');
const axios = require('axios');
const { SHIM_URL, API_KEY, USER_ID } = process.env;
axios.defaults.headers.common['Authorization'] = `Bearer ${API_KEY}`;

const base = `${SHIM_URL}/api/salesforce`;
const results = {};

async function skill(name, call) {
  try {
    const response = await call();
    if (!response.data.ok || !response.data.data) throw new Error(response.data.error?.message ?? 'no data');
    results[name] = response.data.data;
  } catch (error) {
    results[name] = { error: error.response?.data?.error?.message ?? error.message };
  }
}

await skill('listContacts', () => axios.get(`${base}/contacts`, { params: { user_id: USER_ID } }));
await skill('listAccounts', () => axios.get(`${base}/accounts`, { params: { user_id: USER_ID } }));
await skill('listOpportunities', () => axios.get(`${base}/opportunities`, { params: { user_id: USER_ID } }));
await skill('createContact', () =>
  axios.post(`${base}/contacts`, { user_id: USER_ID, LastName: 'Axios', FirstName: 'Ada', Email: 'ada@axios.example' }));
await skill('createAccount', () => axios.post(`${base}/accounts`, { user_id: USER_ID, Name: 'Axios Trading' }));
await skill('createOpportunity', () =>
  axios.post(`${base}/opportunities`, {
    user_id: USER_ID, Name: 'Axios Lamps', StageName: 'Prospecting', CloseDate: '2027-03-31', Amount: 1200.5,
  }));
const id = results.listOpportunities.opportunities?.[0]?.Id;
await skill('getOpportunity', () => axios.get(`${base}/opportunities/${id}`, { params: { user_id: USER_ID } }));
await skill('updateOpportunity', () => axios.put(`${base}/opportunities/${id}`, { user_id: USER_ID, StageName: 'Closed Won' }));

console.log(JSON.stringify(results));
